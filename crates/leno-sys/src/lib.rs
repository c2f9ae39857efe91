//! All unsafe and libc.
