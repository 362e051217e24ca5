//! What to compute and in which order: everything that server and workers must agree on before they compute a
//! number.
//!
//! A [`BatchPlan`] determines which samples step `t` takes ([`Step`], [`SampleOrder`]) and splits them into
//! *leaves*, runs of consecutive samples. Their gradients are summed in one binary tree ([`Tree`]), whose
//! *nodes* are sums over subtrees ([`Node`], [`Coverage`]). Random numbers are a function of a seed, a
//! purpose and a counter ([`seed`]). `docs/numerics.md` specifies all of it.
//!
//! This crate depends on no other, so that the round logic can use it without the numerical code. It never
//! allocates per sample, does I/O, reads a clock or iterates over a hash map.

mod batch;
pub mod mutation;
mod sample_order;
pub mod seed;
mod tree;

pub use batch::{BatchPlan, EVALUATION_LEAF, Step};
pub use sample_order::SampleOrder;
pub use tree::{Coverage, Gathered, Node, Section, Tree};
