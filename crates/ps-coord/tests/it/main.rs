//! The two state machines: scenarios as text, and properties over random histories.

mod behaviour;
mod scenarios;
