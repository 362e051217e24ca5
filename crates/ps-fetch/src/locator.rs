//! Parses URLs of data.

use ps_data::{DataConfig, DataError, Source, is_url};
use url::Url;

/// A URL of data, with the expected hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    /// The URL without its fragment.
    pub url: Url,
    /// The expected SHA-256 in lower-case hexadecimal, from the fragment `#sha256=…`.
    pub sha256: Option<String>,
}

impl Locator {
    /// Parses `text`; `None` if it is a path rather than a URL.
    ///
    /// # Errors
    /// The URL names no file, or its scheme, query, credentials or fragment is not supported.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, DataError> {
        let text = text.trim();
        if !is_url(text.as_ref()) {
            return Ok(None);
        }
        let bad = |problem: &str| DataError::Remote { url: text.into(), problem: problem.into() };
        let mut url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https" | "s3") {
            return Err(bad("only http://, https:// and s3:// are supported"));
        }
        // The query of a signed URL is a credential, but a run file is sent to every worker and saved with
        // the results.
        if url.query().is_some() {
            return Err(bad(
                "URLs with `?` are not supported: give the URL of the object, and credentials in \
                 AWS_ACCESS_KEY_ID and related variables",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "credentials are not allowed in a run file; for s3://, set AWS_ACCESS_KEY_ID and related variables",
            ));
        }
        if url.path().trim_matches('/').is_empty() || url.path().ends_with('/') {
            return Err(bad("it names no file"));
        }
        let sha256 = match url.fragment() {
            None => None,
            Some(fragment) => Some(
                fragment
                    .strip_prefix("sha256=")
                    .filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .ok_or_else(|| bad("expected sha256= and 64 hexadecimal digits after `#`"))?
                    .to_ascii_lowercase(),
            ),
        };
        url.set_fragment(None);
        Ok(Some(Locator { url, sha256 }))
    }

    /// The last segment of the URL's path.
    pub(crate) fn file_name(&self) -> String {
        let name = self.url.path().rsplit('/').next().unwrap_or_default();
        let kept = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(kept).collect();
        if name.trim_matches('.').is_empty() { "data".into() } else { name }
    }
}

/// Checks that all URLs in `config` begin with one of `prefixes`, which end in `/` or are complete URLs.
///
/// # Errors
/// The error names the first URL that does not.
pub fn allowed(config: &DataConfig, prefixes: &[String]) -> Result<(), String> {
    // Invalid sources and URLs are reported when they are fetched or read.
    let sources: Vec<Source> = config.sources().filter_map(|text| Source::parse(text).ok()).collect();
    for file in sources.iter().flat_map(Source::files) {
        let Ok(Some(locator)) = Locator::parse(file) else { continue };
        let url = locator.url.as_str();
        let is_below = |prefix: &String| match Url::parse(prefix) {
            // Without the slash, a prefix could end within a segment: `https://host/data` would permit
            // `https://host/data-of-others`.
            Ok(prefix) if prefix.path().ends_with('/') => url.starts_with(prefix.as_str()),
            Ok(prefix) => url == prefix.as_str(),
            Err(_) => false,
        };
        // A server may decode such characters to `..` or `/`, and so leave the prefix.
        let is_plain = !url.to_ascii_lowercase().contains("%2e") && !url.contains('\\');
        if !is_plain || !prefixes.iter().any(is_below) {
            return Err(format!("the run's data is at {url}, which this worker is not allowed to download"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Locator::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn urls_are_distinguished_from_paths_and_invalid_ones_rejected() {
        for path in ["data/train.csv", "/data/train.csv", "C:\\data.csv", "a:b.csv", ""] {
            assert_eq!(Locator::parse(path).unwrap(), None, "{path}");
        }
        let hash = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
        let locator = Locator::parse(&format!("s3://bucket/a/b%20c.gz#sha256={hash}")).unwrap().unwrap();
        assert_eq!(locator.url.as_str(), "s3://bucket/a/b%20c.gz");
        assert_eq!(locator.sha256.as_deref(), Some(&hash.to_lowercase()[..]));
        assert_eq!(locator.file_name(), "b_20c.gz");
        assert!(problem("ftp://host/a").contains("only http://, https:// and s3://"));
        assert!(problem("https://host/a?sig=1").contains("`?`"));
        assert!(problem("https://me:secret@host/a").contains("credentials"));
        assert!(
            problem("https://host/").contains("no file") && problem("s3://bucket/a/").contains("no file")
        );
        assert!(problem("https://host/a#sha256=12").contains("64 hexadecimal"));
        assert!(problem("https://host/a#part").contains("sha256="));
    }

    #[test]
    fn a_worker_fetches_only_allowed_urls() {
        let check =
            |url: &str, prefix: &str| allowed(&DataConfig::new(format!("csv:{url}")), &[prefix.into()]);
        assert_eq!(check("s3://bucket/a.csv", "s3://bucket/"), Ok(()));
        assert_eq!(check("https://host/a/b.csv", "https://host/a/"), Ok(()));
        assert_eq!(check("https://host/a.csv", "https://host/a.csv"), Ok(()));
        assert_eq!(check("../secret.csv", "https://host/"), Ok(()), "paths are for others to judge");
        for (url, prefix) in [
            ("https://host.evil/a.csv", "https://host"),
            ("https://host/b.csv", "https://host/a/"),
            ("https://host/a/../b.csv", "https://host/a/"),
            ("https://host/a/%2e%2E/b.csv", "https://host/a/"),
            ("https://host/a/x%2e%2e/b.csv", "https://host/a/"),
            ("http://host/a.csv", "https://host/"),
            ("s3://other/a.csv", "s3://bucket/"),
            ("https://host/a.csv", ""),
        ] {
            assert!(check(url, prefix).unwrap_err().contains("is not allowed"), "{url} {prefix}");
        }
        let mut config = DataConfig::new("digits:");
        config.test = Some("idx:a.gz,http://169.254.169.254/latest".into());
        assert!(allowed(&config, &["https://host/".into()]).unwrap_err().contains("169.254"));
    }
}
