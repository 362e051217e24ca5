//! Addresses of servers, `HOST:PORT` or `unix:PATH`, and the listeners bound to them.

use crate::network::Accept;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The address of a server, parsed from `HOST:PORT` or `unix:PATH`. [`Address::connect`] opens a connection
/// to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host, by name or number, and a port.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// Parses `HOST:PORT`, with or without a leading `http://`, or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("the path of the socket is missing".into()),
                _ if cfg!(not(unix)) => Err("this system does not support Unix sockets".into()),
                _ => Ok(Address::Unix(path.into())),
            };
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if address.starts_with("https://") {
            return Err("https needs --tls-cert, --tls-key and --tls-ca".into());
        }
        if address.contains("://") {
            return Err("only http, https and unix are supported".into());
        }
        let port = address.rsplit_once(':').ok_or("the port is missing")?.1;
        port.parse::<u16>().map_err(|_| "the port is not a number up to 65535")?;
        Ok(Address::Tcp(address.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether this is the path of a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Address::Unix(_))
    }
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a Unix socket, whose file is removed when this listener and its clones are dropped.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
    /// On a simulated network, with its address there.
    Other(Box<dyn Accept>, String),
}

/// The file of a Unix socket; removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The file may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds `address`. A stale socket file, which no process listens on any more, is replaced.
    ///
    /// # Errors
    /// The port or the file is in use, or the system does not allow it.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpListener::bind(address).map(Listener::Tcp),
            #[cfg(unix)]
            Address::Unix(path) => bind_file(path),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Another handle to the same socket. The address stays bound until all handles are dropped.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Listener::Tcp(listener) => listener.try_clone().map(Listener::Tcp),
            #[cfg(unix)]
            Listener::Unix(listener, file) => Ok(Listener::Unix(listener.try_clone()?, Arc::clone(file))),
            Listener::Other(..) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// The address it is bound to; for port 0 with the port that the system chose.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?.to_string())),
            #[cfg(unix)]
            Listener::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
            Listener::Other(_, address) => Ok(Address::Tcp(address.clone())),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Listener::Tcp(listener)
    }
}

#[cfg(unix)]
fn bind_file(path: &Path) -> io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            // Only a socket that refuses connections is stale. Any other file belongs to the user, and any
            // other error may come from a server that is alive.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            let is_stale = UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
            if !(is_socket && is_stale) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    Ok(Listener::Unix(bound?, Arc::new(SocketFile(path.to_path_buf()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_the_address_bound() {
        let folder = tempfile::tempdir().unwrap();
        for place in ["127.0.0.1:0".to_owned(), format!("unix:{}", folder.path().join("socket").display())] {
            let listener = Listener::bind(&place.parse().unwrap()).unwrap();
            let address = listener.address().unwrap();
            let clone = listener.try_clone().unwrap();
            drop(listener);
            assert_eq!(Listener::bind(&address).unwrap_err().kind(), ErrorKind::AddrInUse, "{address}");
            drop(clone);
            drop(Listener::bind(&address).unwrap());
        }
    }

    #[test]
    fn valid_addresses_are_accepted_and_invalid_ones_explained() {
        for (text, expected) in [
            ("127.0.0.1:4370", "127.0.0.1:4370"),
            ("http://server.example:80/", "server.example:80"),
            ("[::1]:1", "[::1]:1"),
            ("unix:/run/downhill.sock", "unix:/run/downhill.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
        for (text, expected) in [
            ("localhost", "port is missing"),
            ("a:99999", "not a number"),
            ("https://a:1", "needs --tls-cert"),
            ("ftp://a:1", "only http"),
            ("unix:", "path of the socket"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address).unwrap();
        assert_eq!(first.address().unwrap(), address);
        assert_eq!(Listener::bind(&address).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        // What a killed process leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&address).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(Listener::bind(&address).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
