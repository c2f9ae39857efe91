//! HTTP/1, HTTP/2 and the hop.
