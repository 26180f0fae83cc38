//! TLS from PEM files, for servers and for clients.

mod same;

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use self::same::Same;
use crate::reload::Reloaded;

/// What is spoken over it.
const HTTP2: &[u8] = b"h2";

/// With what a server shows who it is, and whose clients' certificates it takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerTlsSettings {
    /// PEM file of our certificate, with those between it and its authority [default: no TLS]. The
    /// files of TLS are read again when they change.
    #[arg(long, global = true, env = "STORE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, global = true, env = "STORE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities whose certificates may stand for a token of their clients.
    #[arg(long, global = true, env = "STORE_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
}

impl ServerTlsSettings {
    /// Reads the files, if there shall be TLS.
    pub fn open(&self) -> anyhow::Result<Option<Reloaded<ServerConfig>>> {
        let mut files = match (&self.tls_cert, &self.tls_key) {
            (None, None) if self.client_ca.is_none() => return Ok(None),
            (Some(certificate), Some(key)) => vec![certificate.clone(), key.clone()],
            (None, None) => bail!("STORE_CLIENT_CA needs STORE_TLS_CERT and STORE_TLS_KEY"),
            _ => bail!("STORE_TLS_CERT and STORE_TLS_KEY go together: set both or neither"),
        };
        files.extend(self.client_ca.clone());
        let load = |contents: &[Vec<u8>]| match contents {
            [certificate, key] => server(certificate, key, None),
            [certificate, key, authorities] => server(certificate, key, Some(authorities)),
            _ => bail!("not the files of a server"),
        };
        Reloaded::new("certificates", files, load).map(Some)
    }
}

fn server(chain: &[u8], key: &[u8], client_ca: Option<&Vec<u8>>) -> anyhow::Result<ServerConfig> {
    let (chain, key) = identity(chain, key, "STORE_TLS_CERT", "STORE_TLS_KEY")?;
    let config =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let authorities = Arc::new(authorities(pem, "STORE_CLIENT_CA")?);
            // Who shows none has to send a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider())
                .allow_unauthenticated()
                .build()
                .context("STORE_CLIENT_CA")?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let mut config = config
        .with_single_cert(chain, key)
        .context("STORE_TLS_CERT and STORE_TLS_KEY do not make a pair")?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

/// Which servers a client believes.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those of the public authorities.
    Public,
    /// Those of the authorities in a PEM file.
    Authorities(PathBuf),
    /// The one whose certificate is the first in a PEM file: our own process, by whatever name.
    Same(PathBuf),
}

/// The files of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientFiles {
    pub(crate) trust: Trust,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Reads them. They are read for each connection, so that new ones need no restart.
    pub(crate) fn read(&self) -> anyhow::Result<ClientConfig> {
        let read = |path: &PathBuf, setting: &str| {
            fs::read(path).with_context(|| format!("{setting}: cannot read {}", path.display()))
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let config = match &self.trust {
            Trust::Public => config.with_root_certificates(RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            }),
            Trust::Authorities(path) => {
                let pem = read(path, "STORE_CA_CERT")?;
                config.with_root_certificates(authorities(&pem, "STORE_CA_CERT")?)
            }
            Trust::Same(path) => {
                let chain = certificates(&read(path, "STORE_TLS_CERT")?, "STORE_TLS_CERT")?;
                let same = Arc::new(Same::new(chain, provider()));
                config.dangerous().with_custom_certificate_verifier(same)
            }
        };
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = read(certificate, "STORE_CLIENT_CERT")?;
                let key = read(key, "STORE_CLIENT_KEY")?;
                let (chain, key) =
                    identity(&certificate, &key, "STORE_CLIENT_CERT", "STORE_CLIENT_KEY")?;
                config
                    .with_client_auth_cert(chain, key)
                    .context("STORE_CLIENT_CERT and STORE_CLIENT_KEY do not make a pair")?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authorities(pem: &[u8], setting: &str) -> anyhow::Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(certificates(pem, setting)?);
    ensure!(!authorities.is_empty(), "{setting} holds no usable certificate");
    Ok(authorities)
}

fn identity(
    chain: &[u8],
    key: &[u8],
    chain_setting: &str,
    key_setting: &str,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_slice(key)
        .with_context(|| format!("{key_setting} holds no usable PEM key"))?;
    Ok((certificates(chain, chain_setting)?, key))
}

fn certificates(pem: &[u8], setting: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.with_context(|| setting.to_owned())?;
    ensure!(!certificates.is_empty(), "{setting} holds no PEM certificate");
    Ok(certificates)
}
