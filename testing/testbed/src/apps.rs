//! Real applications as members run them: nginx, redis, PostgreSQL, and a gRPC server on gRPC's own C core.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run;
use crate::skip::{Need, which};

/// Where Debian keeps the server programs of PostgreSQL 15.
pub const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";
/// Debian's own Python, which is the one that has Debian's grpc module.
pub const PYTHON: &str = "/usr/bin/python3";
/// The grpc module.
pub const PYTHON_GRPC: &str = "/usr/lib/python3/dist-packages/grpc/__init__.py";

/// Every real program of the service scenarios.
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("curl"),
    Need::Program("nginx"),
    Need::Program("redis-server"),
    Need::Program("redis-cli"),
    Need::Program(POSTGRES),
    Need::Program("psql"),
    Need::Program(PYTHON_GRPC),
    Need::Program("h2load"),
    Need::Program("tshark"),
];

/// nginx on 127.0.0.1:`port`; `locations` is put into its only server block. Gives the command to run.
#[must_use]
pub fn nginx(folder: &Path, name: &str, port: u16, locations: &str) -> Vec<String> {
    let home = folder.join(format!("nginx-{name}"));
    std::fs::create_dir_all(home.join("html")).expect("a folder in our own folder");
    let config = home.join("nginx.conf");
    let place = home.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
           log_format seen '$request_method $request_uri $status $http_leno_source_identity';\n\
           access_log {place}/access.log seen; client_max_body_size 0; keepalive_requests 1000000;\n\
           client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;\n\
           uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;\n\
           server {{ listen 127.0.0.1:{port} reuseport; root {place}/html;\n{locations}\n }}\n\
         }}\n"
    );
    std::fs::write(&config, text).expect("writing nginx.conf");
    let nginx = which("nginx").unwrap_or_else(|| PathBuf::from("nginx"));
    [nginx.display().to_string(), "-p".into(), place.to_string(), "-c".into(), config.display().to_string()].to_vec()
}

/// What nginx logged as `METHOD URI STATUS IDENTITY`, one request a line.
#[must_use]
pub fn nginx_log(folder: &Path, name: &str) -> Vec<String> {
    let file = folder.join(format!("nginx-{name}/access.log"));
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// redis on 127.0.0.1:`port`, without persistence.
#[must_use]
pub fn redis(folder: &Path, port: u16) -> Vec<String> {
    let port = port.to_string();
    let folder = folder.display().to_string();
    ["redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir", &folder].map(str::to_owned).to_vec()
}

/// PostgreSQL on 127.0.0.1:`port` with a fresh cluster, trusting local connections. It refuses to run as root, so it runs
/// as Debian's `postgres`.
#[must_use]
pub fn postgres(folder: &Path, port: u16) -> Vec<String> {
    let home = folder.join("postgres");
    std::fs::create_dir_all(&home).expect("a folder in our own folder");
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o777)).expect("permissions of our own folder");
    let data = home.join("data").display().to_string();
    let drop_root = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let initdb = Path::new(POSTGRES).with_file_name("initdb").display().to_string();
    let _ = run(
        Command::new(drop_root[0])
            .args(&drop_root[1..])
            .args([&initdb, "-D", &data, "-A", "trust", "-U", "postgres", "-N"]),
        Duration::from_secs(120),
    )
    .ok();
    let port = port.to_string();
    let server = [POSTGRES, "-D", &data, "-h", "127.0.0.1", "-p", &port, "-k", "", "-c", "fsync=off"];
    drop_root.iter().chain(&server).map(|w| (*w).to_owned()).collect()
}

/// The gRPC echo server of `programs/grpc_echo.py` on 127.0.0.1:`port`.
#[must_use]
pub fn grpc_server(port: u16) -> Vec<String> {
    [PYTHON.to_owned(), program("grpc_echo.py"), "serve".to_owned(), port.to_string()].to_vec()
}

/// The gRPC client of the same file; `call` is one of its checks.
#[must_use]
pub fn grpc_client(address: &str, call: &str) -> Vec<String> {
    [PYTHON.to_owned(), program("grpc_echo.py"), "call".to_owned(), address.to_owned(), call.to_owned()].to_vec()
}

/// A file of the `programs` folder.
#[must_use]
pub fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name).display().to_string()
}
