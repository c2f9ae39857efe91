//! What only the operating system or the processor can say or do; the one crate with `unsafe`.
//!
//! *Owns*: who is behind a local connection, who listens on a port, handing file descriptors over, locks, limits,
//! addresses, socket options, signals to processes, classes of sixteen bytes at once.
//!
//! *Must not know*: tasks, policies, TLS, what a connection is for.
//!
//! *Start reading at*: [`diag`] (whose connection is this?) and [`fds`] (sockets that outlive a process).

pub mod addresses;
pub mod allocation;
pub mod diag;
pub mod fds;
pub mod heap;
pub mod lanes;
pub mod lock;
pub mod process;
mod procnet;
pub mod socket;

pub use addresses::{canonical, hostname, local_addresses, source_address_towards};
pub use diag::{ListeningSocket, SockDiag, listeners, listening_sockets, peer_uid};
pub use fds::{pass_fds, set_inheritable, take_listener};
pub use lock::FileLock;
pub use process::{
    Usage, die_with_parent, effective_uid, is_descendant, open_file_limit, pid_of_socket, raise_open_file_limit,
    send_signal, usage, worker_count,
};
pub use socket::{Keepalive, set_keepalive, set_user_timeout, shortest_round_trip};
