//! Translates faults to gRPC statuses and back, in one place.

use crate::convert::InvalidMessage;
use crate::limits::PROTOCOL_VERSION;
use crate::v1::Fingerprints;
use ps_net::limits::{HELLO_TIMEOUT, MAX_PULLS};
use ps_net::{ConnectError, TokenError, WANTS_TLS};
use tonic::{Code, Status};

/// Why the server refuses a peer or ends its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The worker uses another version of the protocol.
    Protocol {
        /// The worker's protocol version.
        theirs: u32,
        /// The worker's program.
        build: String,
    },
    /// The worker uses another version of the numerics.
    Numerics {
        /// The worker's version of docs/numerics.md.
        theirs: u32,
        /// The server's version of docs/numerics.md.
        ours: u32,
    },
    /// The worker has loaded something else; holds one sentence per difference.
    Differs(String),
    /// The peer sent an invalid message.
    InvalidMessage(InvalidMessage),
    /// `Hello` did not arrive in time.
    NoHello,
    /// All places for workers are taken.
    Full {
        /// Maximum number of workers.
        workers: usize,
    },
    /// A worker with this credential has sent a wrong sum.
    Banned,
    /// Credentials are individual, and a worker with this one is already connected.
    CredentialInUse,
    /// Credentials are individual, and this worker presented none.
    Unidentified,
    /// The maximum number of clients is already pulling the weights.
    TooManyPulls,
    /// The call carries no token.
    NoToken,
    /// The call carries an unknown token.
    WrongToken,
    /// Only an administrator may make the call.
    NotAdmin,
    /// The run could not be saved; holds the reason.
    Unsaved(String),
    /// The call uses compression, which is not supported.
    Compressed,
    /// A unary call took too long.
    TooSlow,
    /// The worker does not drain its stream.
    NotDraining,
    /// The server is ending.
    Ending,
    /// All steps of the run are made.
    RunFinished,
    /// The call needs the coordinator, but this process is only a shard.
    OnlyAShard,
    /// The shard is already attached.
    ShardTaken,
    /// This shard does not hold the weights to resume from yet.
    NotReady,
    /// The run returns to an earlier step.
    Rewound,
    /// Not all shards are attached yet.
    ShardsMissing {
        /// Number of attached shards.
        present: usize,
        /// Number of shards of the run.
        needed: usize,
    },
}

impl From<InvalidMessage> for Refusal {
    fn from(invalid: InvalidMessage) -> Self {
        Refusal::InvalidMessage(invalid)
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Missing => Refusal::NoToken,
            TokenError::Unknown => Refusal::WrongToken,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Protocol { theirs, build } => write!(
                f,
                "the server speaks protocol version {PROTOCOL_VERSION}, but the worker ({build}) speaks \
                 {theirs}; use the same release on both sides"
            ),
            Refusal::Numerics { theirs, ours } => write!(
                f,
                "the server uses numerics version {ours}, but the worker uses {theirs}; use the same \
                 release on both sides"
            ),
            Refusal::Differs(what) => f.write_str(what),
            Refusal::InvalidMessage(invalid) => invalid.fmt(f),
            Refusal::NoHello => write!(f, "no hello within {} s", HELLO_TIMEOUT.as_secs()),
            Refusal::Full { workers } => write!(f, "the server has reached its limit of {workers} workers"),
            Refusal::Banned => f.write_str("a worker with this credential sent a wrong sum and is banned"),
            Refusal::CredentialInUse => f.write_str(
                "another worker is connected with the same credential; each worker needs its own, because \
                 the server runs with --individual-credentials",
            ),
            Refusal::Unidentified => f.write_str(
                "the server runs with --individual-credentials and cannot read this worker's certificate; \
                 issue another one",
            ),
            Refusal::TooManyPulls => {
                write!(f, "{MAX_PULLS} other clients are already pulling the weights; try again later")
            }
            Refusal::NoToken => f.write_str(
                "the server requires a token; set --token-file to a file with one of the server's tokens",
            ),
            Refusal::WrongToken => f.write_str(
                "the server does not accept the token; compare the first line of --token-file here with the \
                 server's file",
            ),
            Refusal::NotAdmin => f.write_str(
                "only an administrator may end the run; set --admin-token-file to a file with one of the \
                 server's admin tokens, or connect to the server's Unix socket",
            ),
            Refusal::Unsaved(why) => f.write_str(why),
            Refusal::Compressed => f.write_str("compression is not supported; call without grpc-encoding"),
            Refusal::TooSlow => f.write_str("the call took too long and was cancelled"),
            Refusal::NotDraining => f.write_str(
                "the worker does not read its messages, and too many are waiting; it was disconnected and \
                 may reconnect",
            ),
            Refusal::Ending => f.write_str("the server is shutting down"),
            Refusal::RunFinished => f.write_str("the run is over"),
            Refusal::OnlyAShard => {
                f.write_str("this is a shard, which only holds weights; connect to its coordinator instead")
            }
            Refusal::ShardTaken => f.write_str(
                "the run has no free place for this shard: it was started with fewer shards, or the shard \
                 that has the place is still considered connected",
            ),
            Refusal::NotReady => f.write_str("this shard is waiting for its weights from the coordinator"),
            Refusal::Rewound => f.write_str("the run goes back to an earlier step; connect again"),
            Refusal::ShardsMissing { present, needed } => {
                write!(f, "{present} of {needed} other shards are present; start the remaining ones")
            }
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        // `classify` reads these codes at the other end, so they decide whether a worker tries again, gives
        // up, or takes the run as finished.
        let code = match refusal {
            Refusal::Protocol { .. }
            | Refusal::Numerics { .. }
            | Refusal::Differs(_)
            | Refusal::Banned
            | Refusal::Unidentified
            | Refusal::OnlyAShard => Code::FailedPrecondition,
            Refusal::ShardTaken => Code::AlreadyExists,
            Refusal::InvalidMessage(_) => Code::InvalidArgument,
            Refusal::Ending | Refusal::NotReady | Refusal::Rewound | Refusal::ShardsMissing { .. } => {
                Code::Unavailable
            }
            Refusal::NoHello | Refusal::TooSlow => Code::DeadlineExceeded,
            Refusal::Full { .. }
            | Refusal::CredentialInUse
            | Refusal::NotDraining
            | Refusal::TooManyPulls => Code::ResourceExhausted,
            Refusal::NoToken | Refusal::WrongToken => Code::Unauthenticated,
            Refusal::NotAdmin => Code::PermissionDenied,
            Refusal::Unsaved(_) => Code::DataLoss,
            Refusal::Compressed => Code::Unimplemented,
            // No other refusal has this code, by which a worker recognises that the run is over.
            Refusal::RunFinished => Code::Aborted,
        };
        Status::new(code, refusal.to_string())
    }
}

/// Why a call failed, as far as it matters for whether to retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Configuration, data, version or credentials do not match; another attempt would fail in the same way.
    Mismatch(String),
    /// The peer is not a Downhill server.
    NotDownhill(String),
    /// The server found a message of this process invalid: a fault in one of the two programs.
    Refused(String),
    /// A transient failure; holds what happened.
    Transient(String),
    /// The run is over, so there is no reason to retry.
    RunFinished,
}

impl From<ConnectError> for CallFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Permanent(why) => CallFailure::Mismatch(why),
            ConnectError::Transient(why) => CallFailure::Transient(why),
        }
    }
}

/// Classifies a failed call by what its caller can do about it.
pub fn classify(status: &Status) -> CallFailure {
    let text = describe(status);
    match status.code() {
        Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied => {
            CallFailure::Mismatch(status.message().to_owned())
        }
        _ if text.contains(WANTS_TLS) => CallFailure::Mismatch(WANTS_TLS.into()),
        Code::Unimplemented => {
            CallFailure::NotDownhill(format!("it does not implement Downhill's calls ({text})"))
        }
        Code::Aborted => CallFailure::RunFinished,
        Code::InvalidArgument => CallFailure::Refused(status.message().to_owned()),
        _ if is_not_http2(status) => CallFailure::NotDownhill(format!("it does not speak gRPC ({text})")),
        _ => CallFailure::Transient(text),
    }
}

/// Code, message and chain of causes, without repetitions.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

/// Whether the response is not HTTP/2, as from an SSH or an HTTP/1.1 server.
fn is_not_http2(status: &Status) -> bool {
    let text = describe(status);
    // tonic gives no typed access to h2's reasons; these are their fixed descriptions.
    ["frame with invalid size", "unspecific protocol error", "invalid HTTP", "invalid compression flag"]
        .iter()
        .any(|sign| text.contains(sign))
        || text.contains("grpc-status header missing")
}

/// One sentence per fingerprint that differs, or `None` if all agree.
pub fn differences(ours: &Fingerprints, theirs: &Fingerprints) -> Option<String> {
    const SAME_RELEASE: &str = "use the same release on both sides";
    let mut sentences = Vec::new();
    let mut compare = |what: &str, ours: &str, theirs: &str, hint: &str| {
        if ours != theirs {
            sentences
                .push(format!("{what} differs: the server has {ours}, but the worker has {theirs} ({hint})"));
        }
    };
    compare("run file", &ours.run, &theirs.run, SAME_RELEASE);
    compare("data", &ours.data, &theirs.data, "the worker has different data; check its --data-root");
    compare("numerics version", &ours.numerics.to_string(), &theirs.numerics.to_string(), SAME_RELEASE);
    // Other data also leads to another probe gradient, which is no additional information then.
    if ours.data == theirs.data && ours.run == theirs.run {
        compare(
            "probe gradient",
            &ours.probe,
            &theirs.probe,
            "the worker's machine or build computes different bits; use the same release on both sides",
        );
    }
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprints(data: &str) -> Fingerprints {
        Fingerprints { run: "r".into(), data: data.into(), numerics: 1, probe: "p".into() }
    }

    #[test]
    fn only_differing_fingerprints_are_named_with_both_values() {
        let text = differences(&fingerprints("abc"), &fingerprints("def")).unwrap();
        assert!(text.starts_with("data differs: the server has abc, but the worker has def"), "{text}");
        assert!(!text.contains("probe") && !text.contains("run file"));
        assert_eq!(differences(&fingerprints("abc"), &fingerprints("abc")), None);
    }

    #[test]
    fn refusals_are_classified_by_the_client() {
        let check = |refusal: Refusal, expected: fn(String) -> CallFailure| {
            let text = refusal.to_string();
            assert_eq!(classify(&refusal.into()), expected(text));
        };
        check(Refusal::Protocol { theirs: 2, build: "x".into() }, CallFailure::Mismatch);
        check(Refusal::Numerics { theirs: 2, ours: 1 }, CallFailure::Mismatch);
        check(Refusal::Differs("data differs".into()), CallFailure::Mismatch);
        check(Refusal::Full { workers: 2 }, CallFailure::Transient);
        check(Refusal::Banned, CallFailure::Mismatch);
        // The server may not have noticed yet that the earlier connection is broken.
        check(Refusal::CredentialInUse, CallFailure::Transient);
        check(Refusal::NoToken, CallFailure::Mismatch);
        check(Refusal::WrongToken, CallFailure::Mismatch);
        check(Refusal::NotAdmin, CallFailure::Mismatch);
        check(Refusal::NotDraining, CallFailure::Transient);
        check(Refusal::Ending, CallFailure::Transient);
        check(Refusal::InvalidMessage(InvalidMessage::new("chunk is empty")), CallFailure::Refused);
        assert!(matches!(classify(&Status::unimplemented("")), CallFailure::NotDownhill(_)));
    }
}
