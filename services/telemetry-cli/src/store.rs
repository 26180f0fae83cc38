//! The store as the commands see it, with errors that say what to do.

use telemetry_proto::v1::{
    diagnostics_service_client::DiagnosticsServiceClient, query_service_client::QueryServiceClient,
    watch_service_client::WatchServiceClient,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// A connection to a store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    url: String,
    channel: Channel,
}

impl Store {
    pub(crate) fn connect(url: &str) -> anyhow::Result<Self> {
        let no_url =
            || anyhow::anyhow!("--store (STORE_URL) {url:?} is no URL like http://host:50051");
        anyhow::ensure!(url.starts_with("http://") || url.starts_with("https://"), no_url());
        let channel = service_kit::channel::connect(url).map_err(|_| no_url())?;
        Ok(Self { url: url.to_owned(), channel })
    }

    pub(crate) fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
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
            return anyhow::anyhow!("cannot reach the store at {url}: is it running? (cargo dev)");
        }
        match status.code() {
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
            let error = Store::connect(url).unwrap_err().to_string();
            assert!(error.contains("--store") && error.contains("no URL"), "{error}");
        }
        assert!(Store::connect("http://localhost:50051").is_ok());
    }
}
