//! The way to another service: one gRPC channel that finds out when the other side is gone.

use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Error};

/// A channel to `url` that connects when it is first used and again whenever it broke.
/// `https` URLs use TLS with the public certificate authorities.
pub fn connect(url: &str) -> Result<Channel, Error> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    if url.starts_with("https:") {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_webpki_roots())?;
    }
    Ok(endpoint.connect_lazy())
}
