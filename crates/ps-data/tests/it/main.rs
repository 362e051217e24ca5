//! Reading sources of data, well-formed, real and damaged.

mod bad_input;
mod common;
mod reading;
mod real_sets;
mod tables;
