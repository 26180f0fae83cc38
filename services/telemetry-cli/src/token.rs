//! Making tokens for the callers of a store.

use clap::Args;
use service_kit::auth::{Scope, mint};

use crate::output::Output;

#[derive(Args, Clone, Debug)]
pub(crate) struct TokenArgs {
    /// Whose token it is, as the store's log will say it.
    name: String,
    /// What it is good for: ingest, read or admin (which is everything); may be given several times.
    #[arg(long, required = true, value_delimiter = ',')]
    scope: Vec<Scope>,
    /// With what the ids of the devices begin that it is good for; may be given several times
    /// [default: all devices].
    #[arg(long, value_delimiter = ',')]
    devices: Vec<String>,
}

pub(crate) fn token(args: &TokenArgs, output: &mut Output<'_>) -> anyhow::Result<()> {
    let minted = mint(&args.name, &args.scope, &args.devices)?;
    output.rows(vec![vec![("token", minted.token.into()), ("line", minted.line.into())]])
}
