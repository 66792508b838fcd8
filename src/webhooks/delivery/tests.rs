//! Deliveries to receivers of the test's own, on this machine.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_999_999);

fn courier(allow_private: bool) -> Courier {
    Courier::new(Secret::new("k".repeat(32)), allow_private).unwrap()
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, true).unwrap()
}

async fn deliver(by: &Courier, url: &str) -> Result<u16, DeliveryError> {
    by.deliver(&endpoint(url), &message(), NOW).await
}

fn message() -> Message {
    Message {
        id: "evt_1".to_owned(),
        kind: "key.created".to_owned(),
        body: r#"{"id":"evt_1"}"#.to_owned(),
    }
}

/// Reads a request with the test's body, to its end.
fn read_request(stream: &mut impl Read) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(message().body.as_bytes()) && stream.read(&mut byte).unwrap_or(0) > 0 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Answers one request with these bytes. Hands the request out.
fn receiver(answer: impl Into<Vec<u8>>) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = channel();
    let answer = answer.into();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        sender.send(read_request(&mut stream)).unwrap();
        // The other side may have read enough.
        let _ = stream.write_all(&answer);
    });
    (port, received)
}

/// A receiver that must not be called.
fn nobody() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[track_caller]
fn assert_not_called(listener: &TcpListener) {
    let accepted = listener.accept().map(drop).unwrap_err();
    assert_eq!(accepted.kind(), io::ErrorKind::WouldBlock);
}

// Shows what a receiver gets.
#[tokio::test]
async fn a_message_is_sent_signed() {
    let (port, received) = receiver("HTTP/1.1 204 No Content\r\n\r\n");
    let delivered = deliver(
        &courier(true),
        &format!("http://127.0.0.1:{port}/in?token=t"),
    )
    .await;
    assert_eq!(delivered.unwrap(), 204);
    let request = received.recv().unwrap().to_ascii_lowercase();
    let signed = signature::sign(
        &Secret::new("k".repeat(32)),
        1_767_225_600,
        message().body.as_bytes(),
    );
    for line in [
        "post /in?token=t http/1.1\r\n",
        &format!("\r\nhost: 127.0.0.1:{port}\r\n"),
        "\r\ncontent-type: application/json\r\n",
        "\r\ncontent-length: 14\r\n",
        "\r\nx-memoryos-event: key.created\r\n",
        "\r\nx-memoryos-delivery: evt_1\r\n",
        "\r\nx-memoryos-timestamp: 1767225600\r\n",
        &format!("\r\nx-memoryos-signature: {signed}\r\n"),
    ] {
        assert!(request.contains(line), "no {line:?} in {request}");
    }
    assert!(request.ends_with("\r\n\r\n{\"id\":\"evt_1\"}"), "{request}");
}

// Shows that this machine is not called, however its address is written, and that the flag allows it.
#[tokio::test]
async fn private_addresses_are_not_called() {
    let (listener, port) = nobody();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "0",
    ] {
        let error = deliver(&courier(false), &format!("http://{host}:{port}/")).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, DeliveryError::Address(..)),
            "{host}: {error}"
        );
        assert!(
            error.to_string().contains("--webhook-allow-private"),
            "{error}"
        );
    }
    assert_not_called(&listener);
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1"] {
        let (port, received) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let delivered = deliver(&courier(true), &format!("http://{host}:{port}/")).await;
        assert_eq!(delivered.unwrap(), 200, "{host}");
        received.recv().unwrap();
    }
}

// Shows that one private address among public ones is enough to refuse the name.
#[test]
fn every_address_of_a_name_is_looked_at() {
    let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 443);
    let public = vec![address("1.1.1.1"), address("2606:4700::1111")];
    assert_eq!(courier(false).allowed(public.clone()).unwrap(), public);
    let mixed = [public, vec![address("169.254.169.254")]].concat();
    let error = courier(false).allowed(mixed.clone()).unwrap_err();
    assert!(matches!(error, DeliveryError::Address(..)), "{error}");
    assert_eq!(courier(true).allowed(mixed.clone()).unwrap(), mixed);
}

// Shows that a redirect is a failure, and leads nowhere.
#[tokio::test]
async fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (listener, elsewhere) = nobody();
        let (port, received) = receiver(format!(
            "HTTP/1.1 {status} Go\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
        ));
        let error = deliver(&courier(true), &format!("http://127.0.0.1:{port}/")).await;
        assert!(
            matches!(error, Err(DeliveryError::Redirect(s)) if s == status),
            "{error:?}"
        );
        received.recv().unwrap();
        assert_not_called(&listener);
    }
}

#[tokio::test]
async fn only_2xx_is_delivered() {
    for (status, delivered) in [
        (200, true),
        (202, true),
        (299, true),
        (400, false),
        (410, false),
        (500, false),
    ] {
        let (port, _received) =
            receiver(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"));
        let outcome = deliver(&courier(true), &format!("http://127.0.0.1:{port}/")).await;
        assert_eq!(outcome.is_ok(), delivered, "{status}: {outcome:?}");
    }
}

// Shows that a receiver cannot hold a delivery up, or make it read without end.
#[tokio::test]
async fn a_delivery_is_bounded() {
    let (quick, courier) = (
        Courier {
            timeout: Duration::from_millis(100),
            ..courier(true)
        },
        courier(true),
    );
    let at = |port: u16| format!("http://127.0.0.1:{port}/");
    // Accepted by the system, and never by anybody.
    let (_listener, port) = nobody();
    let error = deliver(&quick, &at(port)).await.unwrap_err();
    assert!(matches!(error, DeliveryError::TimedOut), "{error}");

    let headers = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "x".repeat(HEADER_BYTES_MAX)
    );
    let (port, _received) = receiver(headers);
    let error = deliver(&courier, &at(port)).await.unwrap_err();
    assert!(matches!(error, DeliveryError::NoAnswer(_)), "{error}");

    // A body that is announced and does not come: the status is there.
    let (port, _received) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\nmore");
    assert_eq!(deliver(&courier, &at(port)).await.unwrap(), 200);

    // One that never ends is read as far as the bound.
    let endless = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; 64 << 20]].concat();
    let (port, _received) = receiver(endless);
    assert_eq!(deliver(&courier, &at(port)).await.unwrap(), 200);

    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = deliver(&courier, &at(closed)).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Connect(_)), "{error}");
    let error = deliver(&courier, "http://no.such.host.invalid/")
        .await
        .unwrap_err();
    assert!(matches!(error, DeliveryError::Host(_)), "{error}");
}

const CA: &[u8] = include_bytes!("../../../tests/data/tls/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/data/tls/localhost.pem");
const KEY: &[u8] = include_bytes!("../../../tests/data/tls/localhost.key");

/// Answers one request over TLS, as `localhost`.
fn tls_receiver() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = channel();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let _ = sender.send(read_request(&mut stream));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    (port, received)
}

// Shows that TLS works, and that a certificate counts only if it is the host's and from a known authority.
#[tokio::test]
async fn certificates_are_checked() {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(CA).unwrap())
        .unwrap();
    let trusting = Courier::trusting(roots, Secret::new("k".repeat(32)), true).unwrap();

    let (port, received) = tls_receiver();
    let url = format!("https://localhost:{port}/");
    assert_eq!(deliver(&trusting, &url).await.unwrap(), 200);
    assert!(received.recv().unwrap().starts_with("POST / HTTP/1.1\r\n"));

    let mozilla = courier(true);
    for (courier, host) in [(&trusting, "127.0.0.1"), (&mozilla, "localhost")] {
        let (port, received) = tls_receiver();
        let error = deliver(courier, &format!("https://{host}:{port}/"))
            .await
            .unwrap_err();
        assert!(matches!(error, DeliveryError::Tls(_)), "{host}: {error}");
        assert_eq!(received.recv().unwrap(), "");
    }
}
