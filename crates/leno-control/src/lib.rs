//! Assembly of the control plane.
