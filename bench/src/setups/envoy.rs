//! Envoy as a pair: mutual TLS 1.3 and HTTP/1.1 or HTTP/2 between them, one worker each.

use std::path::PathBuf;

use serde_json::{Value, json};
use testbed::skip::which;

use super::{Site, Speech};

/// What the two speak between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// A pool of HTTP/1.1 connections; carries no gRPC.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The binary: `ENVOY`, or on PATH.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("ENVOY").map(PathBuf::from).or_else(|| which("envoy")).filter(|p| p.exists())
}

/// The far proxy's command, then the near one's.
pub fn commands(site: &Site<'_>, between: Between) -> anyhow::Result<[Vec<String>; 2]> {
    let app = |speech: Speech| format!("127.0.0.1:{}", speech.app());
    let near = |speech: Speech| format!("127.0.0.1:{}", speech.near());
    let (http, grpc, tcp) = (Speech::Http, Speech::Grpc, Speech::Tcp);
    let alpn = |of| if of == Between::Http1 { "http/1.1" } else { "h2" };
    let mut far = Config::default();
    let mut at_near = Config::default();
    let both = Some(between);
    far.add("http", &site.far(http), &app(http), server_tls(site, alpn(between)), None, Some(Between::Http1));
    at_near.add("http", &near(http), &site.far(http), None, client_tls(site), both);
    if between == Between::Http2 {
        far.add("grpc", &site.far(grpc), &app(grpc), server_tls(site, "h2"), None, both);
        at_near.add("grpc", &near(grpc), &site.far(grpc), None, client_tls(site), both);
    } else {
        far.add("tcp", &site.far(tcp), &app(tcp), server_tls(site, "tcp"), None, None);
        at_near.add("tcp", &near(tcp), &site.far(tcp), None, client_tls(site), None);
    }
    Ok([command(site, "far", far)?, command(site, "near", at_near)?])
}

#[derive(Default)]
struct Config {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

impl Config {
    /// A listener and the cluster it calls, in HTTP of a kind or in TCP.
    fn add(
        &mut self,
        name: &str,
        listen: &str,
        target: &str,
        server: Option<Value>,
        client: Option<Value>,
        call: Option<Between>,
    ) {
        let filter = if call.is_some() { http(name) } else { tcp(name) };
        let mut chain = json!({"filters": [filter]});
        if let Some(server) = server {
            chain["transport_socket"] = server;
        }
        self.listeners.push(json!({"name": name, "address": address(listen), "filter_chains": [chain],
            "tcp_backlog_size": 4096}));
        // The limits of a circuit breaker (1024 by default) must not be what is measured.
        let many = 100_000;
        let mut cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds":
                [{"max_connections": many, "max_pending_requests": many, "max_requests": many}]},
            "load_assignment": {"cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(target)}}]}]},
        });
        if let Some(client) = client {
            cluster["transport_socket"] = client;
        }
        if let Some(call) = call {
            let protocol = match call {
                Between::Http1 => json!({"http_protocol_options": {}}),
                Between::Http2 => json!({"http2_protocol_options": {"max_concurrent_streams": 2048}}),
            };
            cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol}});
        }
        self.clusters.push(cluster);
    }
}

fn http(name: &str) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters";
    // No request id, since none of the others makes one; no access log; streams may be as long as they like.
    let manager = json!({
        "@type": format!("{kind}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name, "codec_type": "AUTO", "generate_request_id": false, "stream_idle_timeout": "0s",
        "http2_protocol_options": {"max_concurrent_streams": 2048},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{kind}.http.router.v3.Router")}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}]}]},
    });
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
}

fn tcp(name: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name, "cluster": name}})
}

fn tls(site: &Site<'_>) -> Value {
    let c = &site.certificates;
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": {"filename": c.leaf}, "private_key": {"filename": c.key}}],
        "validation_context": {"trusted_ca": {"filename": c.root}},
    })
}

fn server_tls(site: &Site<'_>, alpn: &str) -> Option<Value> {
    let mut common = tls(site);
    common["alpn_protocols"] = json!([alpn]);
    Some(socket("DownstreamTlsContext", json!({"require_client_certificate": true, "common_tls_context": common})))
}

fn client_tls(site: &Site<'_>) -> Option<Value> {
    Some(socket("UpstreamTlsContext", json!({"sni": "peer", "common_tls_context": tls(site)})))
}

fn socket(kind: &str, mut context: Value) -> Value {
    context["@type"] = json!(format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"));
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn address(text: &str) -> Value {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    json!({"socket_address": {"address": host, "port_value": port.parse::<u16>().unwrap_or(0)}})
}

fn command(site: &Site<'_>, name: &str, config: Config) -> anyhow::Result<Vec<String>> {
    let file = site.network.subfolder("envoy").join(format!("{name}.json"));
    let text = json!({"static_resources": {"listeners": config.listeners, "clusters": config.clusters}}).to_string();
    std::fs::write(&file, text)?;
    let binary = binary().unwrap_or_else(|| "envoy".into());
    let words = ["--concurrency", "1", "-l", "warn", "--disable-hot-restart", "-c"].map(str::to_owned);
    Ok([vec![binary.display().to_string()], words.to_vec(), vec![file.display().to_string()]].concat())
}
