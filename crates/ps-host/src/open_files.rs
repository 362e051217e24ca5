//! The number of files that a process may have open.

/// More than a process needs even if it uses all its ports.
#[cfg(unix)]
const SUFFICIENT: u64 = 4096;

/// Returns the number of files, including connections, that this process may have open at a time. First
/// raises the soft limit, up to 4096 or the hard limit: the usual soft limit of 1024 exists for programs that
/// use `select`, and a large run has more connections.
pub fn open_files() -> u64 {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return SUFFICIENT };
        let target = hard.min(SUFFICIENT);
        if soft < target && setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok() {
            return target;
        }
        soft
    }
    #[cfg(not(unix))]
    u64::MAX
}
