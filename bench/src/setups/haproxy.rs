//! HAProxy as a pair: pools of mutual TLS 1.3 connections, HTTP/2 between them for gRPC only; one thread each.

use testbed::skip::which;

use super::{Site, Speech};

/// The far proxy's command, then the near one's.
pub fn commands(site: &Site<'_>) -> anyhow::Result<[Vec<String>; 2]> {
    let c = &site.certificates;
    let (root, both) = (c.root.display(), c.both.display());
    let (http, grpc, tcp) = (Speech::Http, Speech::Grpc, Speech::Tcp);
    let accepts = |alpn: &str| format!("ssl crt {both} ca-file {root} verify required {alpn}");
    let calls =
        |alpn: &str| format!("ssl crt {both} ca-file {root} verify required verifyhost peer sni str(peer) {alpn}");
    let app = |speech: Speech| format!("127.0.0.1:{}", speech.app());
    let near = |speech: Speech| format!("127.0.0.1:{}", speech.near());
    let far = [
        proxy("http", "http", &site.far(http), &accepts("alpn http/1.1"), &app(http), ""),
        proxy("grpc", "http", &site.far(grpc), &accepts("alpn h2"), &app(grpc), "proto h2"),
        proxy("tcp", "tcp", &site.far(tcp), &accepts(""), &app(tcp), ""),
    ]
    .concat();
    let near = [
        proxy("http", "http", &near(http), "", &site.far(http), &calls("alpn http/1.1")),
        proxy("grpc", "http", &near(grpc), "proto h2", &site.far(grpc), &calls("alpn h2")),
        proxy("tcp", "tcp", &near(tcp), "", &site.far(tcp), &calls("")),
    ]
    .concat();
    Ok([command(site, "far", &far)?, command(site, "near", &near)?])
}

fn proxy(name: &str, mode: &str, listen: &str, bind: &str, target: &str, server: &str) -> String {
    format!(
        "listen {name}\n  mode {mode}\n  bind {listen} backlog 4096 {bind}\n  server next {target} pool-max-conn 1024 {server}\n"
    )
}

/// Why: `http-reuse always`: as the others, any idle upstream connection serves any client; AES-128 as with nginx;
/// `tune.h2`: 256 streams must fit one connection; logs and statistics are off as in the others.
fn command(site: &Site<'_>, name: &str, proxies: &str) -> anyhow::Result<Vec<String>> {
    let file = site.network.subfolder("haproxy").join(format!("{name}.cfg"));
    let connections = site.capacity + 16;
    let text = format!(
        "global\n  nbthread 1\n  maxconn {connections}\n  tune.h2.max-concurrent-streams 2048\n\
         \x20 ssl-default-bind-options ssl-min-ver TLSv1.3\n  ssl-default-server-options ssl-min-ver TLSv1.3\n\
         \x20 ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n\
         defaults\n  maxconn {connections}\n  option http-keep-alive\n  http-reuse always\n  timeout connect 5s\n\
         \x20 timeout client 1h\n  timeout server 1h\n  timeout http-keep-alive 1h\n{proxies}"
    );
    std::fs::write(&file, text)?;
    let haproxy = which("haproxy").unwrap_or_else(|| "haproxy".into());
    Ok([haproxy.display().to_string(), "-db".into(), "-f".into(), file.display().to_string()].to_vec())
}
