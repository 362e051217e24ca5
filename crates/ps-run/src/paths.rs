//! Represents paths in JSON, whose strings must be Unicode.

use std::path::{Path, PathBuf};

/// Prefix of an escaped path; it makes the string a file URL.
#[cfg(unix)]
const SCHEME: &str = "file://";

/// Returns `path` as a string. On Unix a path need not be Unicode; one that is not becomes a file URL, which
/// cannot be confused with an absolute path.
pub fn escaped(path: &Path) -> String {
    if let Some(text) = path.to_str() {
        return text.into();
    }
    #[cfg(unix)]
    {
        use std::fmt::Write;
        use std::os::unix::ffi::OsStrExt;
        let mut text = SCHEME.to_string();
        for &byte in path.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                text.push(byte.into());
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    }
    #[cfg(not(unix))]
    path.to_string_lossy().into_owned()
}

/// Returns the path that [`escaped`] has converted to `text`.
pub(crate) fn unescaped(text: &str) -> PathBuf {
    #[cfg(unix)]
    if let Some(escaped) = text.strip_prefix(SCHEME) {
        use std::os::unix::ffi::OsStringExt;
        let mut bytes = Vec::new();
        let mut rest = escaped.as_bytes();
        while let [first, after @ ..] = rest {
            let code = after.get(..2).filter(|_| *first == b'%');
            let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
            bytes.push(code.unwrap_or(*first));
            rest = if code.is_some() { &after[2..] } else { after };
        }
        return std::ffi::OsString::from_vec(bytes).into();
    }
    text.into()
}

/// Serializes a path that may be absent with [`escaped`], for `#[serde(with)]`.
pub(crate) mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::path::PathBuf;

    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(super::escaped).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(|text| super::unescaped(&text)))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn every_path_reads_back_and_those_in_unicode_stay_as_they_are() {
        for (bytes, expected) in [
            (&b"/data/a b%41"[..], "/data/a b%41"),
            ("/d\u{e4}ta/\u{6570}".as_bytes(), "/d\u{e4}ta/\u{6570}"),
            (&b"/d\xff/a b%\n"[..], "file:///d%FF/a%20b%25%0A"),
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(escaped(path), expected);
            assert_eq!(unescaped(expected), path);
        }
    }
}
