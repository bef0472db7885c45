//! Sign-in against a provider in this process, over real sockets.

mod provider;
mod provider_answers;
mod sign_in;
mod signer;
mod token;
mod user_info;

use std::time::Duration;

use crate::policy::time::UnixTime;

/// The gateway's clock, and the provider's.
const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

/// Ends a test that hangs.
async fn within_deadline<T>(test: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(60);
    tokio::time::timeout(deadline, test).await.expect("in time")
}
