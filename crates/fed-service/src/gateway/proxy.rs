//! One request on its way to the dashboard and back.

use std::io;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use thiserror::Error;

use super::dial::Target;
use super::headers;
use super::tasks::Tasks;

/// Bytes held per direction of a websocket.
const BUFFER: usize = 64 * 1024;

/// What the dashboard streams, or what the gateway says itself.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// Why the dashboard did not answer.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    /// No connection inside the sandbox.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came over it is not HTTP.
    #[error("no valid answer: {0}")]
    Exchange(#[source] hyper::Error),
    /// It changed to a protocol that nobody asked for.
    #[error("it changed the protocol unasked")]
    Upgrade,
}

/// Passes a request on, over a connection of its own, and returns the answer as it begins; the
/// bodies are streamed.
///
/// `Host` stays what the browser said: the dashboard's own links and checks refer to it.
pub(super) async fn forward(
    target: &Target,
    tasks: &Tasks,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ForwardError> {
    let browser = headers::asks_for_websocket(&request).then(|| upgrade::on(&mut request));
    headers::strip_hop(request.headers_mut());
    if browser.is_some() {
        headers::mark_websocket(request.headers_mut());
    }
    *request.uri_mut() = origin_form(request.uri());
    *request.version_mut() = Version::HTTP_11;

    let stream = target.connect().await.map_err(ForwardError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ForwardError::Exchange)?;
    tasks.spawn(async move {
        // The sender and the body see the same error.
        let _ = connection.with_upgrades().await;
    });
    let mut response = sender
        .send_request(request)
        .await
        .map_err(ForwardError::Exchange)?;

    headers::strip_hop(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let browser = browser.ok_or(ForwardError::Upgrade)?;
        headers::mark_websocket(response.headers_mut());
        tasks.spawn(tunnel(browser, upgrade::on(&mut response)));
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(Either::Left))
}

/// Copies both ways once both ends speak the websocket protocol.
async fn tunnel(browser: OnUpgrade, dashboard: OnUpgrade) {
    let (browser, dashboard) = match futures::try_join!(browser, dashboard) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a websocket of the dashboard did not come about");
            return;
        }
    };
    let copied = tokio::io::copy_bidirectional_with_sizes(
        &mut TokioIo::new(browser),
        &mut TokioIo::new(dashboard),
        BUFFER,
        BUFFER,
    )
    .await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a websocket of the dashboard was cut off");
    }
}

/// Leaves path and query of a URL, which is what a server is asked for.
fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .map_or_else(|| Uri::from(PathAndQuery::from_static("/")), Uri::from)
}
