//! The HTTP/1, HTTP/2 and TCP sides over real sockets: against raw bytes, against each other, against foreign programs.

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod h1_client;
#[cfg(test)]
mod h1_server;
#[cfg(test)]
mod h2;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tcp;
