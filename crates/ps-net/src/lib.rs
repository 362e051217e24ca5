//! How the processes of a run reach each other: where a server listens ([`Address`], [`Listener`]), how a
//! client connects to it ([`Address::connect`], [`Attempts`]), what protects the connection ([`Security`]),
//! how many connections a port accepts ([`connections`]), over which network they go ([`network`]), and every
//! size and timeout of connections and ports ([`limits`]).
//!
//! Nothing here knows what is sent over a connection, nor how a flag is parsed.

mod address;
mod attempts;
mod connect;
pub mod connections;
pub mod limits;
pub mod network;
pub mod security;

pub use address::{Address, Listener};
pub use attempts::Attempts;
pub use connect::{ConnectError, Connection, WANTS_TLS};
pub use security::{Security, SecurityFiles, TokenError};
