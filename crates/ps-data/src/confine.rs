//! Restricts the files that a configuration from another person can read.

use crate::config::DataConfig;
use crate::format::Source;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A path that leads out of the folder to which sources are confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideRoot {
    /// The path, as the configuration gives it.
    pub path: PathBuf,
    /// The folder to which sources are confined.
    pub root: PathBuf,
    /// How the path leads out, as a part of the error message.
    pub how: &'static str,
}

impl fmt::Display for OutsideRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutsideRoot { path, root, how } = self;
        write!(f, "data path `{}` {how} outside {}", path.display(), root.display())
    }
}

impl std::error::Error for OutsideRoot {}

/// Checks that every file named by `config` is in `root`: no absolute paths, no `..`, and no symbolic links
/// that lead elsewhere. Opens nothing. Invalid sources and missing files are reported when they are read;
/// URLs are handled by `ps-fetch`.
///
/// # Errors
/// Returns the first path that leads out.
pub fn confine(config: &DataConfig, root: &Path) -> Result<(), OutsideRoot> {
    for source in config.sources() {
        // An invalid source is an error when it is read.
        let Ok(source) = Source::parse(source) else { continue };
        let paths = source.files().into_iter().map(PathBuf::from).filter(|path| !is_url(path));
        paths.into_iter().try_for_each(|path| check_inside(path, root))?;
    }
    Ok(())
}

/// Whether a path is a URL, which is downloaded and never opened as a file.
pub fn is_url(path: &Path) -> bool {
    let scheme = path.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

fn check_inside(path: PathBuf, root: &Path) -> Result<(), OutsideRoot> {
    let outside = |path, how| Err(OutsideRoot { path, root: root.into(), how });
    if path.as_os_str() == "-" {
        return outside(path, "is standard input, which is");
    }
    for component in path.components() {
        match component {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return outside(path, "contains `..`, which leads"),
            Component::RootDir | Component::Prefix(_) => return outside(path, "is absolute and may lead"),
        }
    }
    // A symbolic link can only be followed by asking the file system. A path that does not exist leads
    // nowhere, and its reader reports it.
    let (Ok(real), Ok(folder)) = (root.join(&path).canonicalize(), root.canonicalize()) else {
        return Ok(());
    };
    if real.starts_with(folder) { Ok(()) } else { outside(path, "leads through a symbolic link") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Validation;

    fn check(text: &str, root: &Path) -> Result<(), String> {
        confine(&DataConfig::new(text), root).map_err(|outside| outside.to_string())
    }

    #[test]
    fn only_what_lies_in_the_root_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a.csv"), "").unwrap();
        std::fs::write(folder.path().join("secret"), "").unwrap();
        for good in ["digits:", "digits:100", "csv:a.csv", "csv:./a.csv", "csv:none.csv", "nonsense"] {
            assert_eq!(check(good, &root), Ok(()), "{good}");
        }
        for (bad, expected) in [
            ("csv:../secret", "`../secret` contains `..`"),
            ("csv:sub/../../secret", "contains `..`"),
            ("csv:://../../secret", "contains `..`"),
            ("csv:a/b://../../secret", "contains `..`"),
            ("libsvm:/etc/passwd", "`/etc/passwd` is absolute"),
            ("idx:a.csv,../secret", "`../secret` contains `..`"),
            ("csv:-", "`-` is standard input"),
            ("libsvm: - ", "`-` is standard input"),
        ] {
            let error = check(bad, &root).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let mut config = DataConfig::new("digits:");
        config.test = Some("csv:../secret".into());
        assert!(confine(&config, &root).is_err());
        config = DataConfig::new("digits:");
        config.validation = Some(Validation::Source("csv:/etc/passwd".into()));
        assert!(confine(&config, &root).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_before_they_are_judged() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a.csv"), "").unwrap();
        std::fs::write(folder.path().join("secret"), "").unwrap();
        symlink(root.join("a.csv"), root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("..", root.join("folder")).unwrap();
        // If the root is itself a symbolic link, its target counts.
        let other = folder.path().join("other");
        symlink(&root, &other).unwrap();
        for root in [root, other] {
            assert_eq!(check("csv:inside", &root), Ok(()));
            assert!(check("csv:outside", &root).unwrap_err().contains("symbolic link"));
            assert!(check("csv:folder/secret", &root).unwrap_err().contains("symbolic link"));
        }
    }
}
