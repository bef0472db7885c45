//! Listens to what the server tells about changes, on a connection of its own.
//!
//! A pooler in between may lose notifications, and one that comes while no connection stands is lost too. Whoever listens
//! also looks from time to time.

use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::store::database::postgres::connection::{PAUSE, PostgresServer, jitter};

/// Ends when it is dropped.
pub(crate) struct Listening(AbortHandle);

impl Listening {
    /// Calls `notified` at each notification in the channel, and each time when the connection was made: something may have
    /// been missed before.
    pub(crate) fn start(
        server: &Arc<PostgresServer>,
        channel: &'static str,
        notified: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let notified: Arc<dyn Fn() + Send + Sync> = Arc::new(notified);
        let task = listen(Arc::clone(server), channel, notified);
        Self(server.runtime().spawn(task).abort_handle())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn listen(
    server: Arc<PostgresServer>,
    channel: &'static str,
    notified: Arc<dyn Fn() + Send + Sync>,
) {
    let mut pause = PAUSE[0];
    loop {
        if let Ok((client, mut delivery)) =
            server.open_for_notifications(Arc::clone(&notified)).await
        {
            let _ends = EndsWithListener(delivery.abort_handle());
            if client
                .batch_execute(&format!("LISTEN {channel}"))
                .await
                .is_ok()
            {
                pause = PAUSE[0];
                notified();
                // Until the connection ends. The client has to live as long.
                let _ = (&mut delivery).await;
            }
        }
        tokio::time::sleep(pause.mul_f64(jitter())).await;
        pause = (pause * 2).min(PAUSE[1]);
    }
}

/// A task of its own would outlive the one that is dropped.
struct EndsWithListener(AbortHandle);

impl Drop for EndsWithListener {
    fn drop(&mut self) {
        self.0.abort();
    }
}
