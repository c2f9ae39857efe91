//! Assembly of the data plane.
