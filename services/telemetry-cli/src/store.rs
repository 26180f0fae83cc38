//! The store as the commands see it, with errors that say what to do.

use service_kit::channel::{self, AccessSettings, Channel};
use telemetry_proto::v1::{
    admin_service_client::AdminServiceClient, diagnostics_service_client::DiagnosticsServiceClient,
    query_service_client::QueryServiceClient, watch_service_client::WatchServiceClient,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A connection to a store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    url: String,
    channel: Channel,
}

impl Store {
    pub(crate) fn connect(url: &str, access: &AccessSettings) -> anyhow::Result<Self> {
        let no_url = || format!("--store (STORE_URL) {url:?} is no URL like http://host:50051");
        let is_url = url.starts_with("http://") || url.starts_with("https://");
        anyhow::ensure!(is_url && !url.contains(char::is_whitespace), no_url());
        let channel = channel::connect(url, access)?;
        Ok(Self { url: url.to_owned(), channel })
    }

    pub(crate) fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub(crate) fn diagnostics(&self) -> DiagnosticsServiceClient<Channel> {
        DiagnosticsServiceClient::new(self.channel.clone())
            .max_decoding_message_size(64 * 1024 * 1024)
    }

    pub(crate) fn watch(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
    }

    /// What a status means to the person who asked.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        let (url, message) = (&self.url, status.message());
        if status.code() == Code::Unavailable && status.get_details_retry_info().is_none() {
            let reason = channel::reason(status);
            return anyhow::anyhow!(
                "cannot reach the store at {url}: is it running? (cargo dev)\n{reason}"
            );
        }
        match status.code() {
            Code::Unauthenticated => anyhow::anyhow!(
                "the store at {url} does not know us: set STORE_TOKEN or STORE_TOKEN_FILE \
                 ({message})"
            ),
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange => {
                anyhow::anyhow!("{message}")
            }
            code => anyhow::anyhow!("the store at {url} says: {message} ({code:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_url_is_said_so() {
        for url in ["nonsense", "localhost:50051", "http://x y", ""] {
            let error = Store::connect(url, &AccessSettings::default()).unwrap_err().to_string();
            assert!(error.contains("--store") && error.contains("no URL"), "{error}");
        }
        assert!(Store::connect("http://localhost:50051", &AccessSettings::default()).is_ok());
    }
}
