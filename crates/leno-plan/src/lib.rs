//! What a proxy executes, as data, and how it decides.
