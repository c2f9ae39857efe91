//! Against programs we did not write: nginx as the application, curl as its caller, our server and client between them.
//!
//! Where a program is missing the test counts itself as skipped in the file named by `LENO_SKIPS`, which is held against a list.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use leno_http::{Refusal, Request, h1};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::support::{Server, Speaks, echo, run, serve};

fn is_missing(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).chain([Path::new("/usr/sbin").to_owned()]).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("SKIP: {program} is not installed");
        if let Some(file) = std::env::var_os("LENO_SKIPS") {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
            writeln!(file, "leno-http foreign {program}: not installed").unwrap();
        }
    }
    !found
}

/// nginx with a file of 3 MB and a few other places, for as long as the child lives.
async fn nginx(dir: &Path) -> (Child, SocketAddr) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(dir.join("big"), vec![b'n'; 3_000_000]).unwrap();
    std::fs::write(dir.join("small"), "small file\n").unwrap();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log; events {{}}
         http {{ access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
           uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e; keepalive_requests 5;
           server {{ listen {port}; root {dir}; client_max_body_size 100m;
             location /teapot {{ return 418 short; }}
             dav_methods PUT;
           }} }}",
        dir = dir.display(),
    );
    std::fs::write(dir.join("conf"), config).unwrap();
    let child = Command::new("nginx")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-p", dir.to_str().unwrap(), "-e", "stderr", "-c", dir.join("conf").to_str().unwrap()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while TcpStream::connect(port).await.is_err() {
        tokio::task::yield_now().await;
    }
    (child, port)
}

async fn proxy(target: SocketAddr) -> Server {
    let client = h1::Client::new(h1::ClientSettings::default());
    serve(Speaks::Http1, move |request: Request| {
        let client = client.clone();
        async move { client.send(target, request).await.map_err(Refusal::from) }
    })
    .await
}

async fn curl(args: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(args).output().await.unwrap();
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_through_us_to_nginx() {
    if is_missing("nginx") || is_missing("curl") {
        return;
    }
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut nginx, target) = nginx(dir.path()).await;
        let proxy = proxy(target).await;
        let url = |path: &str| format!("http://{}{path}", proxy.address);
        // nginx closes after every fifth request: our pool must notice.
        for _ in 0..12 {
            assert_eq!(curl(&[&url("/small")]).await, "small file\n");
        }
        assert_eq!(curl(&[&url("/big")]).await.len(), 3_000_000);
        assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &url("/teapot")]).await, "418");
        assert!(curl(&["-I", &url("/big")]).await.contains("content-length: 3000000"));
        assert_eq!(curl(&["-r", "0-4", &url("/small")]).await, "small");
        assert_eq!(curl(&["--http1.0", &url("/small")]).await, "small file\n");
        let upload = dir.path().join("big");
        for (name, how) in
            [("known", &["-H", "Expect: 100-continue"][..]), ("chunked", &["-H", "Transfer-Encoding: chunked"][..])]
        {
            let target = url(&format!("/{name}"));
            let status = curl(
                &[how, &["-T", upload.to_str().unwrap(), "-o", "/dev/null", "-w", "%{http_code}", &target]].concat(),
            )
            .await;
            assert_eq!(status, "201", "{name}");
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().len(), 3_000_000, "{name}");
        }
        nginx.kill().await.unwrap();
    });
}

#[test]
fn curl_speaks_http2_to_us() {
    if is_missing("curl") {
        return;
    }
    run(async {
        let server = serve(Speaks::Http2, echo).await;
        let url = format!("http://{}/a?b", server.address);
        let all = curl(&["--http2-prior-knowledge", "-d", "body", &url]).await;
        assert_eq!(all, format!("POST /a?b {}\nbody\n", server.address));
        assert!(curl(&["--http2-prior-knowledge", "-I", &url]).await.starts_with("HTTP/2 200"));
    });
}
