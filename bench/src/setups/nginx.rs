//! nginx as a pair: pools of mutual TLS 1.3 connections between them; TCP by its `stream` module.

use testbed::skip::which;

use super::{Site, Speech};

/// Where Debian puts the module that carries TCP.
pub const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What every server has in common. Why: `keepalive_*`: a pool must not lose connections in a window; `TLS_AES_128_GCM`:
/// what the others choose, OpenSSL alone would take the dearer AES-256; `proxy_buffering`: on, as by default, but never
/// to disk, which would measure the disk; request bodies are passed on as they come, as the others do.
const HTTP: &str = "access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 1h;
    http2_max_concurrent_streams 2048; http2_max_requests 100000000; proxy_http_version 1.1; proxy_set_header Connection '';
    proxy_max_temp_file_size 0; proxy_request_buffering off; client_max_body_size 0; grpc_read_timeout 1h; grpc_send_timeout 1h;
    client_body_timeout 1h;";

/// The far proxy's command, then the near one's.
pub fn commands(site: &Site<'_>) -> anyhow::Result<[Vec<String>; 2]> {
    let c = &site.certificates;
    let (root, leaf, key) = (c.root.display(), c.leaf.display(), c.key.display());
    let accepts = format!(
        "ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_certificate {leaf};
         ssl_certificate_key {key}; ssl_client_certificate {root}; ssl_verify_client on;"
    );
    let calls = |prefix: &str| {
        format!(
            "{prefix}_ssl_protocols TLSv1.3; {prefix}_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
             {prefix}_ssl_certificate {leaf}; {prefix}_ssl_certificate_key {key};
             {prefix}_ssl_trusted_certificate {root}; {prefix}_ssl_verify on; {prefix}_ssl_name peer;"
        )
    };
    let app = |speech: Speech| format!("127.0.0.1:{}", speech.app());
    let near = |speech: Speech| format!("127.0.0.1:{}", speech.near());
    let (http, grpc, tcp) = (Speech::Http, Speech::Grpc, Speech::Tcp);
    let far_http = [
        pool("http", &app(http)),
        pool("grpc", &app(grpc)),
        server(&site.far(http), "ssl", &format!("{accepts} location / {{ proxy_pass http://http; }}")),
        server(&site.far(grpc), "ssl http2", &format!("{accepts} location / {{ grpc_pass grpc://grpc; }}")),
    ]
    .concat();
    let far_tcp = server(&site.far(tcp), "ssl", &format!("{accepts} proxy_pass {};", app(tcp)));
    let near_http = [
        pool("http", &site.far(http)),
        pool("grpc", &site.far(grpc)),
        server(&near(http), "", &format!("location / {{ proxy_pass https://http; {} }}", calls("proxy"))),
        server(&near(grpc), "http2", &format!("location / {{ grpc_pass grpcs://grpc; {} }}", calls("grpc"))),
    ]
    .concat();
    let near_tcp = server(&near(tcp), "", &format!("proxy_pass {}; proxy_ssl on; {}", site.far(tcp), calls("proxy")));
    Ok([command(site, "far", &far_http, &far_tcp)?, command(site, "near", &near_http, &near_tcp)?])
}

fn pool(name: &str, address: &str) -> String {
    format!(
        "upstream {name} {{ server {address}; keepalive 512; keepalive_requests 100000000; keepalive_timeout 1h; \
         keepalive_time 24h; }}\n"
    )
}

fn server(listen: &str, how: &str, rest: &str) -> String {
    format!("server {{ listen {listen} {how} backlog=4096; {rest} }}\n")
}

fn command(site: &Site<'_>, name: &str, http: &str, stream: &str) -> anyhow::Result<Vec<String>> {
    let home = site.network.subfolder(&format!("nginx-{name}"));
    let place = home.display();
    // A client and an upstream connection each.
    let connections = site.capacity * 2 + 64;
    let text = format!(
        "load_module {STREAM}; daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;
         worker_rlimit_nofile 131072; events {{ worker_connections {connections}; }}
         http {{ {HTTP}
           client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
           uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
         {http} }}
         stream {{ tcp_nodelay on; proxy_timeout 1h; {stream} }}\n"
    );
    let config = home.join("nginx.conf");
    std::fs::write(&config, text)?;
    let nginx = which("nginx").unwrap_or_else(|| "nginx".into());
    Ok([nginx.display().to_string(), "-p".into(), place.to_string(), "-c".into(), config.display().to_string()]
        .to_vec())
}
