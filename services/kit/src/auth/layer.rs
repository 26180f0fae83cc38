//! The door of a gRPC server: looks at every call before a handler sees it, and at every stream for
//! as long as it lasts.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, Ready, ready as at_once},
};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body::Frame;
use tonic::{Status, body::Body};
use tower::{
    Layer, Service,
    layer::util::{Identity as Nothing, Stack},
};

use super::{
    Auth, Credentials,
    identity::{Identity, Scope},
    status,
};
use crate::{calls::Calls, incoming::Peer};

/// The most calls that are open to everyone which one address may have open at once.
const MAX_OPEN_TO_ADDRESS: usize = 1000;

/// What a method asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Open,
    /// To have this scope.
    Needs(Scope),
}

/// The door.
#[derive(Clone, Debug)]
pub struct Door {
    auth: Arc<Auth>,
    rule: fn(&str) -> Rule,
    open: Arc<Open>,
}

/// What a server is of which every call is counted and then goes through a door.
pub type Behind = Stack<Door, Stack<Calls, Nothing>>;

/// Calls and streams that are open, by identity.
#[derive(Debug)]
struct Open {
    limit: usize,
    count: Mutex<HashMap<String, usize>>,
}

impl Door {
    /// A door that lets in whom `auth` knows, to methods (by their path) as `rule` has it, each to so
    /// many calls and streams at once.
    pub fn new(auth: Arc<Auth>, rule: fn(&str) -> Rule, limit: usize) -> Self {
        Self { auth, rule, open: Arc::new(Open { limit, count: Mutex::default() }) }
    }

    /// Whom a call is of, unless it may be made by everyone.
    fn admit<B>(&self, request: &Request<B>) -> Result<Option<Arc<Identity>>, Status> {
        let Rule::Needs(scope) = (self.rule)(request.uri().path()) else { return Ok(None) };
        let peer = request.extensions().get::<Peer>();
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let credentials = match (headers.next(), headers.next()) {
            (None, _) => Credentials::Certificate(peer.and_then(Peer::certificate)),
            (Some(header), None) => Credentials::Header(header.as_bytes()),
            (Some(_), Some(_)) => Credentials::Header(b""),
        };
        let address = peer.and_then(|peer| peer.address);
        let refused = |reason| self.auth.refused(reason, address, request.uri().path());
        let identity = self.auth.identify(&credentials).map_err(|reason| {
            refused(reason);
            status::unauthenticated()
        })?;
        if !identity.has(scope) {
            refused("the scope is missing");
            return Err(status::without_scope(scope));
        }
        if let Some(peer) = peer {
            peer.is_known();
        }
        Ok(Some(identity))
    }
}

/// A place among the open calls of an identity.
#[derive(Debug)]
struct Place {
    open: Arc<Open>,
    name: String,
}

impl Place {
    /// The place, or why there is none.
    fn take(open: &Arc<Open>, name: String, limit: usize) -> Result<Self, Status> {
        let mut count = open.count.lock().unwrap_or_else(PoisonError::into_inner);
        let own = count.entry(name.clone()).or_default();
        if *own >= limit {
            return Err(status::too_many(limit));
        }
        *own += 1;
        Ok(Self { open: Arc::clone(open), name })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.open.count.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = count.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                count.remove(&self.name);
            }
        }
    }
}

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { door: self.clone(), inner }
    }
}

/// What is behind the door.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    door: Door,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<
        Ready<Result<Self::Response, S::Error>>,
        BoxFuture<'static, Result<Self::Response, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let refuse = |status: Status| Either::Left(at_once(Ok(status.into_http())));
        let (place, ended) = match self.door.admit(&request) {
            Ok(Some(identity)) => {
                let (open, auth) = (&self.door.open, &self.door.auth);
                let place = Place::take(open, identity.name().to_owned(), open.limit);
                let ended = auth.ended(Arc::clone(&identity));
                let body = std::mem::take(request.body_mut());
                let of_request = Some(auth.ended(Arc::clone(&identity)));
                let body = Until { body, ended: of_request, is_request: true, _place: None };
                *request.body_mut() = Body::new(body);
                request.extensions_mut().insert(identity);
                (place, ended)
            }
            Ok(None) => {
                let peer = request.extensions().get::<Peer>();
                let address = peer.and_then(|peer| peer.address).map(|address| address.ip());
                // No identity has this name, as there is a space in it.
                let name = format!("stranger {address:?}");
                let place = Place::take(&self.door.open, name, MAX_OPEN_TO_ADDRESS);
                (place, std::future::pending().boxed())
            }
            Err(status) => return refuse(status),
        };
        let place = match place {
            Ok(place) => Some(place),
            Err(status) => return refuse(status),
        };
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| {
                Body::new(Until { body, ended: Some(ended), is_request: false, _place: place })
            }))
        }))
    }
}

/// A body that breaks off when the identity of its caller ends.
struct Until {
    body: Body,
    /// Nothing once it has.
    ended: Option<BoxFuture<'static, ()>>,
    is_request: bool,
    _place: Option<Place>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if ended.as_mut().poll(cx).is_pending() {
            return Poll::Ready(ready!(Pin::new(&mut self.body).poll_frame(cx)));
        }
        self.ended = None;
        if self.is_request {
            return Poll::Ready(Some(Err(status::ended())));
        }
        let mut trailers = HeaderMap::new();
        status::ended().add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.body.is_end_stream()
    }
}
