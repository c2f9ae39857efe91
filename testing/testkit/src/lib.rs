//! Fakes and faulty peers for tests.
