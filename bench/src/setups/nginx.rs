//! nginx as a pair: keep-alive pools of mutual TLS 1.3 connections between them.

use testbed::Network;
use testbed::skip::which;

use super::certificates::Certificates;

/// The far proxy's command, then the near one's.
pub fn commands(network: &Network, c: &Certificates, near: &str, far: &str, app: &str) -> [Vec<String>; 2] {
    let (root, leaf, key) = (c.root.display(), c.leaf.display(), c.key.display());
    let far_server = format!(
        "upstream next {{ server {app}; keepalive 512; keepalive_requests 1000000; }}\n\
         server {{ listen {far} ssl; ssl_protocols TLSv1.3; ssl_certificate {leaf}; ssl_certificate_key {key};\n\
           ssl_client_certificate {root}; ssl_verify_client on; location / {{ proxy_pass http://next; }} }}"
    );
    let near_server = format!(
        "upstream next {{ server {far}; keepalive 512; keepalive_requests 1000000; }}\n\
         server {{ listen {near}; location / {{ proxy_pass https://next; proxy_ssl_protocols TLSv1.3;\n\
           proxy_ssl_certificate {leaf}; proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {root};\n\
           proxy_ssl_verify on; proxy_ssl_name peer; }} }}"
    );
    [command(network, "far", &far_server), command(network, "near", &near_server)]
}

fn command(network: &Network, name: &str, servers: &str) -> Vec<String> {
    let home = network.subfolder(&format!("nginx-{name}"));
    let place = home.display();
    let text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log {place}/error.log; events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000; proxy_http_version 1.1; proxy_set_header Connection '';\n\
           client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;\n\
           uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n{servers}\n}}\n"
    );
    let config = home.join("nginx.conf");
    std::fs::write(&config, text).expect("writing into our own folder");
    let nginx = which("nginx").unwrap_or_else(|| "nginx".into());
    [nginx.display().to_string(), "-p".into(), place.to_string(), "-c".into(), config.display().to_string()].to_vec()
}
