//! The dashboard's port: an HTTP proxy with a door.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::access::{Access, Verdict};
use super::dial::Target;
use super::proxy::{self, Body};
use super::tasks::Tasks;

/// Longest time for a request's head, and longest rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at a time, without those that became websockets; further ones wait.
const CONNECTIONS: usize = 512;
/// Rest after an `accept` that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What each request needs.
struct Door {
    access: Access,
    target: Target,
    tasks: Tasks,
}

/// Serves browsers until it is dropped.
pub(super) async fn serve(listener: TcpListener, access: Access, target: Target, tasks: Tasks) {
    let door = Arc::new(Door {
        access,
        target,
        tasks,
    });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&room)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, remote)) => {
                let connection = connection(Arc::clone(&door), stream, remote);
                door.tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept browsers");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(door: Arc<Door>, stream: TcpStream, remote: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "a browser left at once");
        return;
    }
    let service = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer(request, remote).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%remote, %error, "a browser's connection ended early");
    }
}

impl Door {
    async fn answer(&self, request: Request<Incoming>, remote: SocketAddr) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return say(
                StatusCode::METHOD_NOT_ALLOWED,
                "This is the dashboard of a federation, and no way to other hosts.\n".into(),
            );
        }
        match self.access.judge(&request) {
            Verdict::Pass => self.pass(request).await,
            Verdict::Login { location } => self.log_in(&location),
            Verdict::WrongHost => {
                tracing::warn!(%remote, "a browser used a name that is not this listener's");
                let hosts = self.access.hosts().join(", ");
                say(
                    StatusCode::MISDIRECTED_REQUEST,
                    format!("This dashboard answers under these names only: {hosts}.\n"),
                )
            }
            Verdict::NoToken => say(
                StatusCode::FORBIDDEN,
                "This dashboard opens with its link, which `fed status` shows.\n".into(),
            ),
            Verdict::WrongOrigin => {
                tracing::warn!(%remote, "a page of another origin called the dashboard");
                say(
                    StatusCode::FORBIDDEN,
                    "This dashboard does not answer pages of another origin; \
                     open the link that `fed status` shows.\n"
                        .into(),
                )
            }
        }
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Response<Body> {
        self.access.strip(request.headers_mut());
        match proxy::forward(&self.target, &self.tasks, request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(dashboard = %self.target, %error, "the dashboard does not answer");
                say(
                    StatusCode::BAD_GATEWAY,
                    format!(
                        "The dashboard at {} does not answer: {error}; see `fed logs`.\n",
                        self.target
                    ),
                )
            }
        }
    }

    fn log_in(&self, location: &str) -> Response<Body> {
        let mut response = say(StatusCode::SEE_OTHER, String::new());
        let headers = response.headers_mut();
        headers.insert(SET_COOKIE, self.access.cookie());
        headers.insert(
            LOCATION,
            HeaderValue::try_from(location).expect("parts of a URL can stand in a header"),
        );
        // The URL of this page holds the token.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// Answers in the gateway's own name.
fn say(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
