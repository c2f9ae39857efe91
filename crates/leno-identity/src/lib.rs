//! Certificates as data, CSRs, bundles, join tokens, the CA.
