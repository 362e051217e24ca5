//! The amount of memory that a process may use.

use std::fmt;
use std::path::Path;

/// The amount of memory that a process may use, and what limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The amount in bytes.
    pub bytes: u64,
    /// The source of the limit.
    pub bound: Bound,
}

/// The source of a process's memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The memory that the system can provide without swapping.
    Available,
    /// The limit of the process's control group, as in a container.
    ControlGroup,
}

impl Memory {
    /// The memory limit of this process's control group or the memory available now, whichever is smaller.
    /// `None` if neither is known, as on systems other than Linux.
    pub fn detect() -> Option<Memory> {
        Memory::of(&|path| std::fs::read_to_string(path).ok())
    }

    /// Like [`Memory::detect`], but reads system files with `read`.
    fn of(read: &dyn Fn(&Path) -> Option<String>) -> Option<Memory> {
        let available = read(Path::new("/proc/meminfo")).and_then(|text| available(&text));
        let limit = read(Path::new("/proc/self/cgroup")).and_then(|groups| limit(&groups, read));
        let bounds = [(available, Bound::Available), (limit, Bound::ControlGroup)];
        let known = bounds.into_iter().filter_map(|(bytes, bound)| Some(Memory { bytes: bytes?, bound }));
        known.min_by_key(|memory| memory.bytes)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = bytes(self.bytes.into());
        match self.bound {
            Bound::Available => write!(f, "the available memory of {amount}"),
            Bound::ControlGroup => write!(f, "the control group's memory limit of {amount}"),
        }
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest memory limit, in bytes, of the groups listed in `groups`, the contents of `/proc/self/cgroup`,
/// and of all groups above them.
fn limit(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_group = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            // Control groups, version 2.
            "" => (Path::new("/sys/fs/cgroup"), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container, the path may be that of the host and not exist here; the root is then
        // the container's group.
        let folder = root.join(group.trim_start_matches('/'));
        let above = folder.ancestors().take_while(|folder| folder.starts_with(root));
        // Without a limit, version 2 says `max`, and version 1 gives a number larger than
        // any machine's memory.
        above.filter_map(|folder| read(&folder.join(file))?.trim().parse::<u64>().ok()).min()
    };
    groups.lines().filter_map(of_group).min()
}

/// Formats a number of bytes for people, such as `1.5 GiB`.
pub fn bytes(count: u128) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = 0;
    // From 1023.95 on, one decimal would show 1024.0 of the smaller unit.
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str =
        "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    4194304 kB\n";

    fn memory(files: &[(&str, &str)]) -> Option<Memory> {
        Memory::of(&|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, content)| (*content).to_owned())
        })
    }

    #[test]
    fn the_lower_of_limit_and_available_memory_counts() {
        let available = Memory { bytes: 4 << 30, bound: Bound::Available };
        let limited = |bytes| Some(Memory { bytes, bound: Bound::ControlGroup });
        let meminfo = ("/proc/meminfo", MEMINFO);
        assert_eq!(memory(&[]), None);
        assert_eq!(memory(&[meminfo]), Some(available));
        // Version 2: the limit of the group itself, and that of a group above it.
        let group = ("/proc/self/cgroup", "0::/a.slice/b\n");
        let none = ("/sys/fs/cgroup/a.slice/b/memory.max", "max\n");
        assert_eq!(memory(&[meminfo, group, none]), Some(available));
        let above = ("/sys/fs/cgroup/a.slice/memory.max", "1073741824\n");
        assert_eq!(memory(&[meminfo, group, none, above]), limited(1 << 30));
        let large = ("/sys/fs/cgroup/a.slice/b/memory.max", "8589934592\n");
        assert_eq!(memory(&[meminfo, group, large]), Some(available));
        assert_eq!(memory(&[group, large]), limited(8 << 30));
        // In a container whose group has a different name on the host.
        let root = ("/sys/fs/cgroup/memory.max", "2147483648\n");
        assert_eq!(memory(&[meminfo, ("/proc/self/cgroup", "0::/../../pod7"), root]), limited(2 << 30));
        // Version 1, where a large number stands for no limit.
        let groups = ("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n");
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(&[meminfo, groups, none]), Some(available));
        let job = ("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1048576\n");
        assert_eq!(memory(&[meminfo, groups, none, job]), limited(1 << 20));
    }

    #[test]
    fn unreadable_limits_are_ignored() {
        for content in ["", "MemAvailable: lots kB", "MemAvailable: 99999999999999999999 kB", "0:"] {
            assert_eq!(memory(&[("/proc/meminfo", content), ("/proc/self/cgroup", content)]), None);
        }
    }

    #[test]
    fn amounts_are_written_in_the_largest_unit_that_fits() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 42, "4.0 TiB"),
            (u128::MAX, "295147905179352825856.0 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
