//! Real load balancers before a gateway: HAProxy and nginx, each with a config of its test's own.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::recorder::Reserved;
use super::{DEADLINE, eventually};

/// A load balancer that runs until it is dropped.
pub struct Balancer {
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
    /// Holds the port for it: what listens gets the connections.
    _port: Reserved,
}

/// Where an nginx of a test's own keeps what it writes.
const NGINX: &str = "
    worker_processes 1;
    error_log stderr;
    pid nginx.pid;
    events { worker_connections 64; }
";

impl Balancer {
    /// HAProxy with these sections; `{port}` in them is its own.
    pub fn haproxy(sections: &str) -> Self {
        Self::start(sections, "haproxy.cfg", |folder, file| {
            let mut command = Command::new("/usr/sbin/haproxy");
            command.arg("-db").arg("-f").arg(folder.join(file));
            command
        })
    }

    /// nginx with these blocks beside its own settings.
    pub fn nginx(blocks: &str) -> Self {
        let config = format!("{blocks}{NGINX}");
        Self::start(&config, "nginx.conf", |folder, file| {
            let mut command = Command::new("/usr/sbin/nginx");
            command.args([
                "-e",
                "stderr",
                "-g",
                "daemon off; master_process off;",
                "-p",
            ]);
            command.arg(folder).arg("-c").arg(folder.join(file));
            command
        })
    }

    fn start(config: &str, file: &str, command: impl Fn(&Path, &str) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = Reserved::new();
        let address = port.address;
        let config = config
            .replace("{port}", &address.port().to_string())
            .replace("{folder}", &folder.path().display().to_string());
        std::fs::write(folder.path().join(file), config).expect("the config is written");
        let mut child = command(folder.path(), file)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("the load balancer is started; tests/tools installs it");
        eventually("the load balancer listens", DEADLINE, || {
            let ended = child.try_wait().expect("a status");
            assert!(ended.is_none(), "the load balancer exited: {ended:?}");
            TcpStream::connect(address).ok()
        });
        Self {
            address,
            child,
            folder,
            _port: port,
        }
    }

    /// A path in its folder, which is `{folder}` in its config.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
