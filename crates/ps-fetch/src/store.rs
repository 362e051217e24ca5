//! Access to object stores and web servers, on a small tokio runtime per call.

use object_store::aws::AmazonS3Builder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Once;
use std::time::Duration;
use tokio_stream::StreamExt;
use url::{Position, Url};

/// A store that does not accept a connection within this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without any data before a download is given up.
const STALLED: Duration = Duration::from_secs(60);
/// Limits on retries after temporary errors: their number, and their total time.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Identifies a version of an object, to find out whether it has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) size: u64,
    e_tag: Option<String>,
    /// Time of the last change, in seconds since the Unix epoch; 0 if the store does not report it.
    modified: i64,
}

impl From<&ObjectMeta> for Stored {
    fn from(meta: &ObjectMeta) -> Self {
        Stored { size: meta.size, e_tag: meta.e_tag.clone(), modified: meta.last_modified.timestamp() }
    }
}

/// Asks the store for the current version of the object at `url`.
///
/// # Errors
/// The store cannot be reached, or does not have the object.
pub(crate) fn look(url: &Url) -> Result<Stored, String> {
    let (store, path) = open(url)?;
    block_on(async { Ok(Stored::from(&store.head(&path).await.map_err(|error| problem(url, &error))?)) })
}

/// Downloads the object at `url`. Passes its content to `take` piece by piece, and the bytes so far and in
/// total to `report`.
///
/// # Errors
/// The download failed; the pieces that were passed to `take` are incomplete and must be discarded.
pub(crate) fn fetch(
    url: &Url,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    report: &dyn Fn(u64, u64),
) -> Result<Stored, String> {
    let (store, path) = open(url)?;
    block_on(async {
        let result = store.get(&path).await.map_err(|error| problem(url, &error))?;
        let stored = Stored::from(&result.meta);
        let mut pieces = result.into_stream();
        let mut done = 0;
        loop {
            let next = tokio::time::timeout(STALLED, pieces.next()).await;
            let stalled = |_| format!("no data for {} s, after {done} bytes", STALLED.as_secs());
            let Some(piece) = next.map_err(stalled)? else { break };
            let piece = piece.map_err(|error| problem(url, &error))?;
            // Checked before the piece is stored, so that a server cannot fill the disk.
            if piece.len() as u64 > stored.size - done {
                return Err(format!("more than the announced {} bytes were sent", stored.size));
            }
            take(&piece).map_err(|error| format!("cannot store it: {error}"))?;
            done += piece.len() as u64;
            report(done, stored.size.max(done));
        }
        match done == stored.size {
            true => Ok(stored),
            false => Err(format!("it ended after {done} of {} bytes", stored.size)),
        }
    })
}

fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(work)
}

fn open(url: &Url) -> Result<(Box<dyn ObjectStore>, Path), String> {
    static PROVIDER: Once = Once::new();
    // Installation fails only if a provider is already installed.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    // The client's own timeout covers a whole request, so it would cut off large files. `STALLED` bounds the
    // time without data instead.
    let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout_disabled();
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT };
    let path = Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
    let wrong = |error: Error| error.to_string();
    let store: Box<dyn ObjectStore> = match url.scheme() {
        "s3" => {
            // S3 requires a region; stores other than Amazon's accept this one.
            let region =
                ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
            let builder = AmazonS3Builder::from_env()
                .with_url(url.as_str())
                .with_region(region.unwrap_or_else(|| "us-east-1".into()))
                .with_retry(retry);
            let plain = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true" || value == "1");
            Box::new(builder.with_client_options(client.with_allow_http(plain)).build().map_err(wrong)?)
        }
        _ => {
            let client = client.with_allow_http(true);
            let builder = HttpBuilder::new().with_url(&url[..Position::BeforePath]).with_retry(retry);
            Box::new(builder.with_client_options(client).build().map_err(wrong)?)
        }
    };
    Ok((store, path))
}

/// Describes an error and how to fix it.
fn problem(url: &Url, error: &Error) -> String {
    let is_s3 = url.scheme() == "s3";
    let whole = chain(error);
    let is_without_credentials = is_s3 && whole.contains("169.254.169.254");
    match error {
        Error::NotFound { .. } => "there is nothing at this URL".into(),
        Error::Unauthenticated { .. } | Error::PermissionDenied { .. } if is_s3 => {
            "the store denied access; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions"
                .into()
        }
        Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => "the server denied access".into(),
        _ if is_without_credentials => {
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true \
             for public data"
                .into()
        }
        _ => {
            let hint = if is_s3 {
                "AWS_ENDPOINT_URL, AWS_REGION and the network"
            } else {
                "the address and the network"
            };
            format!("it cannot be reached: {whole}; check {hint}")
        }
    }
}

/// Formats an error with its causes, without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
