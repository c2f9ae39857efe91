//! Listening, connecting, TLS sessions.
