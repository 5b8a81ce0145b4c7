//! `handloom bench`.
