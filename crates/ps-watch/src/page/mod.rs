//! The HTTP routes of the dashboard, and of metrics.
//!
//! The dashboard loads nothing from other sites and cannot change the run. Its state arrives as server-sent
//! events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>); curves are drawn by this
//! process, as SVG.

mod state;
mod viewers;

use crate::curves::{RunCurves, panels};
use crate::metrics::{CONTENT_TYPE, Source};
use crate::site::Gate;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Form, Path as Named, Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE as TYPE, COOKIE, HOST, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use ps_net::limits::{self, Capacity, MAX_FORM_BYTES, PAGE_BUFFER_BYTES};
use ps_plot::{Axis, Figure, Panel};
use ps_run::{METRICS_FILE, MODEL_FILE, RUN_FILE, RunState, SUMMARY_FILE};
use serde::Deserialize;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;
pub(crate) use viewers::Viewers;

/// Minimum time between two events on a stream. The end of the run is sent without this delay.
const EVENT_INTERVAL: Duration = Duration::from_millis(500);
/// How often a stream checks for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Permitted widths of a picture, in pixels.
const WIDTHS: std::ops::RangeInclusive<u32> = 240..=1600;

/// The dashboard of a run.
#[derive(Clone)]
pub(crate) struct Dashboard {
    /// The live state of the run.
    pub run_state: Arc<RunState>,
    /// The results folder, whose files can be downloaded.
    pub folder: Option<PathBuf>,
    /// Decides who may see the dashboard; without it, everybody who can connect may.
    pub gate: Option<Gate>,
    /// Counts the open pages that do not yet show the end of the run.
    pub(crate) viewers: Viewers,
}

/// The files that can be downloaded from the results folder.
const RESULTS: [&str; 4] = [MODEL_FILE, SUMMARY_FILE, METRICS_FILE, RUN_FILE];

/// Returns the route `/metrics` alone.
pub(crate) fn metrics(source: Source) -> Router {
    let page = move || async move { ([(TYPE, CONTENT_TYPE)], source.page()) };
    Router::new().route("/metrics", get(page))
}

impl Dashboard {
    /// Returns the names of the result files that exist.
    fn results(&self) -> Vec<&'static str> {
        let Some(folder) = &self.folder else { return Vec::new() };
        RESULTS.into_iter().filter(|file| folder.join(file).is_file()).collect()
    }

    /// Returns all routes of the dashboard.
    pub(crate) fn routes(self, capacity: Capacity) -> Router {
        let events = Events { opened: Arc::default(), most: limits::event_streams(capacity) as u64 };
        let metrics = metrics(Source::Server(Arc::clone(&self.run_state)));
        let inside = Router::new()
            .route("/", get(|| text("text/html; charset=utf-8", include_str!("index.html"))))
            .route("/state.json", get(now))
            .route("/events", get(move |dashboard, query| self::events(dashboard, query, events.clone())))
            .route("/chart/{number}", get(chart))
            .route("/results/{file}", get(result))
            .route_layer(from_fn_with_state(self.clone(), guard));
        // The login form needs these before the client has a token. The files are part of the program and
        // tell nothing about the run.
        let outside = Router::new()
            .route("/app.js", get(|| text("text/javascript; charset=utf-8", include_str!("app.js"))))
            .route("/style.css", get(|| text("text/css; charset=utf-8", include_str!("style.css"))))
            .route("/enter", post(enter));
        // Scrapers have no token, so the metrics are served without one here as on their own port.
        let all = inside.merge(outside).with_state(self).merge(metrics);
        all.layer(DefaultBodyLimit::max(MAX_FORM_BYTES)).layer(map_response(hardened))
    }
}

async fn text(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(TYPE, kind)], content)
}

/// Adds headers that forbid loading content from other sites, framing, and caching.
async fn hardened(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    headers.into_iter().for_each(|(name, value)| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    });
    response
}

const COOKIE_NAME: &str = "downhill";

/// Admits clients that present a token, either in a header, as other callers of the run do, or in the cookie
/// that `/enter` has set. If no token is required, the request must name this host by address or as
/// localhost: under any other name, a website could read the page by DNS rebinding.
async fn guard(State(dashboard): State<Dashboard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    match &dashboard.gate {
        Some(gate) => {
            let entered = cookie(headers).is_some_and(|bearer| gate(&bearer));
            if !entered && !gate(headers) {
                return (
                    StatusCode::UNAUTHORIZED,
                    text("text/html; charset=utf-8", include_str!("enter.html")).await,
                )
                    .into_response();
            }
        }
        None if !is_plain(headers) => {
            let told = "open this page by its IP address or as localhost; other host names need a server with --token-file\n";
            return (StatusCode::FORBIDDEN, told).into_response();
        }
        None => {}
    }
    next.run(request).await
}

/// Returns the token in the cookie as an authorization header.
fn cookie(headers: &HeaderMap) -> Option<HeaderMap> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, coded) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
    let bytes =
        coded.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bearer(&String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?)
}

fn bearer(token: &str) -> Option<HeaderMap> {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    Some(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn is_plain(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[derive(Deserialize)]
struct Entering {
    token: String,
}

/// Sets a cookie for a client that submits a valid token.
async fn enter(State(dashboard): State<Dashboard>, Form(Entering { token }): Form<Entering>) -> Response {
    let knows = |gate: &Gate| bearer(token.trim()).is_some_and(|bearer| gate(&bearer));
    if !dashboard.gate.as_ref().is_some_and(knows) {
        return (
            StatusCode::UNAUTHORIZED,
            text("text/html; charset=utf-8", include_str!("enter.html")).await,
        )
            .into_response();
    }
    // A token may contain characters that a cookie must not, such as `;`.
    let coded = ps_core::params::hex(token.trim().as_bytes());
    // Without `Secure`, because the dashboard is served over plain HTTP and browsers would not keep such a
    // cookie.
    let cookie = format!("{COOKIE_NAME}={coded}; HttpOnly; SameSite=Strict; Path=/");
    ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

async fn now(State(dashboard): State<Dashboard>) -> impl IntoResponse {
    ([(TYPE, "application/json")], state::json(&dashboard))
}

#[derive(Deserialize)]
struct Listening {
    /// Present if the page already shows the end of the run and only waits for the process to exit.
    after_end: Option<String>,
}

/// The event streams of a dashboard.
#[derive(Clone)]
struct Events {
    /// Number of streams opened so far.
    opened: Arc<AtomicU64>,
    /// Maximum number of open streams.
    most: u64,
}

/// Sends the state of the run whenever it has changed. The stream ends once too many newer ones have been
/// opened, so that clients that hold streams open cannot lock out others.
async fn events(
    State(dashboard): State<Dashboard>,
    Query(Listening { after_end }): Query<Listening>,
    Events { opened, most }: Events,
) -> impl IntoResponse {
    let number = opened.fetch_add(1, Ordering::Relaxed);
    let viewer = after_end.is_none().then(|| dashboard.viewers.enter());
    let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(POLL_INTERVAL));
    let ticks = ticks.take_while(move |_| opened.load(Ordering::Relaxed) - number <= most);
    let mut sent: Option<(u64, Instant)> = None;
    let news = ticks.filter_map(move |now| {
        // The closure keeps the viewer counted for as long as the stream exists.
        let _viewer = &viewer;
        let (changes, is_over) =
            (dashboard.run_state.changes(), dashboard.run_state.read(|snapshot| snapshot.phase.is_over()));
        let is_due =
            sent.is_none_or(|(known, at)| changes != known && (is_over || now - at >= EVENT_INTERVAL));
        is_due.then(|| {
            sent = Some((changes, now));
            Event::default().data(state::json(&dashboard))
        })
    });
    // A connection whose stream has ended must not occupy one of the limited places.
    ([(CONNECTION, "close")], Sse::new(news.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
struct Drawing {
    width: Option<u32>,
    /// `log` or `linear`; by default, whichever fits the values.
    scale: Option<String>,
}

/// Draws one of the panels as SVG.
async fn chart(
    State(dashboard): State<Dashboard>,
    Named(number): Named<usize>,
    Query(drawing): Query<Drawing>,
) -> Response {
    // A copy, because training must not wait for the lock while a picture is drawn.
    let lines = dashboard.run_state.read(|snapshot| snapshot.lines.clone());
    let course = RunCurves::new("run".into(), lines);
    let Some(mut lines) = panels(&[course]).into_iter().nth(number) else {
        return (StatusCode::NOT_FOUND, "there is no such chart yet\n").into_response();
    };
    lines.title.clear();
    match drawing.scale.as_deref() {
        Some("log") => lines.y = Axis::log(""),
        Some("linear") => lines.y = Axis::linear(""),
        _ => {}
    }
    let width = drawing.width.unwrap_or(560).clamp(*WIDTHS.start(), *WIDTHS.end());
    let panel = (width, (width * 9 / 16).clamp(200, 420));
    let figure = Figure { title: String::new(), columns: 1, panel, panels: vec![Panel::Lines(lines)] };
    match figure.to_svg() {
        Ok(svg) => ([(TYPE, "image/svg+xml")], svg).into_response(),
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response(),
    }
}

/// Sends a file of the results.
async fn result(State(dashboard): State<Dashboard>, Named(file): Named<String>) -> Response {
    let known = RESULTS.into_iter().find(|known| *known == file);
    let (Some(file), Some(folder)) = (known, &dashboard.folder) else {
        return (StatusCode::NOT_FOUND, "no such result\n").into_response();
    };
    // Opening a local file is fast enough to block the runtime of the page.
    let opened =
        ps_host::open(&folder.join(file)).and_then(|content| Ok((content.metadata()?.len(), content)));
    let Ok((size, content)) = opened else {
        return (StatusCode::NOT_FOUND, format!("{file} has not been written yet\n")).into_response();
    };
    // The metrics file may grow while it is sent, but must not exceed the length in the header.
    let content = tokio::fs::File::from_std(content).take(size);
    let content = Body::from_stream(ReaderStream::with_capacity(content, PAGE_BUFFER_BYTES));
    let headers = [
        (TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, size.to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{file}\"")),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::{Bounds, Site};
    use ps_run::About;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;

    fn site(folder: Option<PathBuf>, all: usize) -> Site {
        let run_state = Arc::new(RunState::new(About::default(), &[]));
        let capacity = Capacity { all, of_one_address: all };
        let viewers = Viewers::default();
        let routes = Dashboard { run_state, folder, gate: None, viewers }.routes(capacity);
        Site::open("127.0.0.1:0", routes, Bounds::new(capacity)).unwrap()
    }

    fn ask(site: &Site, path: &str) -> TcpStream {
        let mut socket = TcpStream::connect(site.address()).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        socket
    }

    fn head(socket: &mut impl BufRead) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(socket.read_line(&mut head).unwrap(), 0, "{head}");
        }
        head
    }

    #[test]
    fn a_result_larger_than_memory_is_served_piece_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let weights = std::fs::File::create(folder.path().join(MODEL_FILE)).unwrap();
        weights.set_len(1 << 42).unwrap();
        let site = site(Some(folder.path().into()), 8);
        let mut reader = BufReader::new(ask(&site, "/results/model.safetensors"));
        let head = head(&mut reader);
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: 4398046511104"),
            "{head}"
        );
        let mut first = vec![1; 1 << 20];
        reader.read_exact(&mut first).unwrap();
        assert!(first.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_result_is_a_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/dev/zero", folder.path().join(MODEL_FILE)).unwrap();
        let site = site(Some(folder.path().into()), 8);
        assert!(
            head(&mut BufReader::new(ask(&site, "/results/model.safetensors"))).starts_with("HTTP/1.1 404")
        );
    }

    #[test]
    fn the_newest_streams_of_events_are_kept() {
        let site = site(None, 8);
        // Two streams may be open at once, so the third one ends the first. A client cannot prevent that by
        // not reading its stream.
        let mut streams: Vec<_> = (0..4)
            .map(|_| {
                let mut stream = BufReader::new(ask(&site, "/events"));
                assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
                stream
            })
            .collect();
        let newest = streams.split_off(2);
        for mut stream in streams {
            let mut all = String::new();
            stream.read_to_string(&mut all).unwrap();
            assert!(all == "0\r\n\r\n" || all.ends_with("\r\n0\r\n\r\n"), "{all}");
        }
        for mut stream in newest {
            let mut line = String::new();
            while !line.starts_with("data: ") {
                line.clear();
                assert_ne!(stream.read_line(&mut line).unwrap(), 0);
            }
        }
        assert!(head(&mut BufReader::new(ask(&site, "/state.json"))).starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_form_that_is_too_long_is_refused() {
        let site = site(None, 8);
        let mut socket = TcpStream::connect(site.address()).unwrap();
        let body = "token=".to_owned() + &"a".repeat(MAX_FORM_BYTES);
        let kind = "application/x-www-form-urlencoded";
        write!(
            socket,
            "POST /enter HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        let _ = socket.write_all(body.as_bytes());
        assert!(head(&mut BufReader::new(socket)).starts_with("HTTP/1.1 413"));
    }
}
