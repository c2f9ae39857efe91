//! The HTTP/1, HTTP/2 and TCP sides over real sockets: against raw bytes, against each other, against foreign programs.

mod foreign;
mod h1_client;
mod h1_server;
mod h2;
mod support;
mod tcp;
