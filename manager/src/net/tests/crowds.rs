//! Many, slow and silent callers, and those behind a balancer.

use super::*;

#[tokio::test]
async fn silent_and_slow_sockets_keep_no_newcomer_out() {
    // The oldest silent ones go; and where none does, all places are taken by slow ones, and some of those wait, too.
    for silent_sockets in [100, 1000] {
        let bed = bed(Limits { handshakes: 64, silent_sockets, ..Limits::default() });
        let mut sockets = Vec::new();
        for n in 0..300 {
            let mut socket = TcpStream::connect(bed.agents.address()).await.unwrap();
            if n % 2 == 0 {
                // The first byte of a handshake, and no more.
                let _ = socket.write_all(&[22]).await;
            }
            sockets.push(socket);
        }
        let enrol = async { bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await.unwrap() };
        timeout(Duration::from_secs(5), enrol).await.expect("a newcomer gets through within the time of a handshake");
    }
}

#[tokio::test]
async fn a_crowd_that_has_spoken_is_served_to_the_last_however_few_may_be_silent() {
    let bed = bed(Limits { handshakes: 2, silent_sockets: 4, ..Limits::default() });
    let connect = async || Channel::open(bed.agents.address(), bed.nobody_config()).await;
    let all = futures_util::future::join_all((0..40).map(|_| connect()));
    for connected in timeout(PATIENCE, all).await.unwrap() {
        connected.expect("it is served in its turn");
    }
}

#[tokio::test]
async fn one_address_that_fills_its_line_keeps_nobody_out_at_another() {
    let bed = bed(Limits { handshakes: 1, waiting_sockets: 8, ..Limits::default() });
    let mut sockets = Vec::new();
    for _ in 0..32 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut socket = socket.connect(bed.agents.address()).await.unwrap();
        let _ = socket.write_all(&[22]).await;
        sockets.push(socket);
    }
    super::limits::until_counted(&bed, "waiting_sockets").await;
    let enrol = async { bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await.unwrap() };
    timeout(PATIENCE, enrol).await.expect("it has its turn");
}

#[tokio::test]
async fn a_connection_that_says_nothing_after_its_handshake_is_closed() {
    let bed = bed(Limits { handshake: Duration::from_millis(200), silence: Duration::from_millis(200), ..Limits::default() });
    let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(bed.nobody_config()).connect(name, socket).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    let mut silent = TcpStream::connect(bed.agents.address()).await.unwrap();
    let _ = timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn callers_without_a_certificate_are_limited_by_address_and_agents_are_not() {
    let bed = bed(Limits { anonymous_per_address: 2, anonymous_call: Duration::from_secs(1), ..Limits::default() });
    let (one, two) = (bed.nobody().await, bed.nobody().await);
    one.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    two.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    let three = bed.nobody().await;
    three.newcomer().enroll(EnrollRequest::default()).await.expect_err("it gets no turn");
    three.closed().await;
    bed.agent().await.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    drop((one, two));
    let again = async {
        while bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn fifty_newcomers_from_one_address_take_turns_and_all_get_through() {
    let bed = bed(Limits { anonymous_per_address: 8, ..Limits::default() });
    let enrol = async || bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await;
    let all = futures_util::future::join_all((0..50).map(|_| enrol()));
    for enrolled in timeout(PATIENCE, all).await.unwrap() {
        enrolled.unwrap();
    }
}

#[tokio::test]
async fn a_connection_without_a_certificate_does_not_last() {
    let bed = bed(Limits { anonymous_lifetime: Duration::from_millis(50), ..Limits::default() });
    bed.nobody().await.closed().await;
}

#[tokio::test]
async fn one_connection_too_many_closes_an_agents_oldest_and_tells_an_operator() {
    let bed = bed(Limits { connections_per_agent: 1, connections_per_operator: 1, ..Limits::default() });
    let first = bed.agent().await;
    first.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    let second = bed.agent().await;
    second.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    first.closed().await;
    let other = Channel::open(bed.agents.address(), bed.agent_config("aaaaaaaaaaaaaaaa")).await.unwrap();
    other.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    second.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();

    let first = bed.operator().await;
    first.operator().get_self(GetSelfRequest {}).await.unwrap();
    let status = bed.operator().await.operator().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    first.operator().get_self(GetSelfRequest {}).await.unwrap();
}

#[tokio::test]
async fn behind_a_balancer_the_caller_is_who_the_balancer_says_and_nobody_else_can_say_so() {
    let local = vec!["127.0.0.0/8".parse().unwrap()];
    let bed =
        bed(Limits { anonymous_per_address: 1, anonymous_call: Duration::from_secs(1), proxy_protocol_from: local, ..Limits::default() });
    let through = async |header: &str| {
        let mut socket = TcpStream::connect(bed.agents.address()).await?;
        socket.write_all(header.as_bytes()).await?;
        Channel::over(socket, bed.nobody_config()).await
    };
    let first = through("PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\r\n").await.unwrap();
    first.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    let second = through("PROXY TCP4 10.0.0.8 10.0.0.1 4711 7443\r\n").await.unwrap();
    second.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    through("PROXY TCP4 10.0.0.7 10.0.0.1 4712 7443\r\n").await.unwrap().closed().await;
    assert!(through("").await.is_err(), "the header is required");
    let plain = super::bed(Limits::default());
    let mut socket = TcpStream::connect(plain.agents.address()).await.unwrap();
    socket.write_all(b"PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\r\n").await.unwrap();
    assert!(Channel::over(socket, plain.nobody_config()).await.is_err(), "and refused from everywhere else");
}

/// Is set in the process that the test below starts.
const CHILD: &str = "SUTLER_TEST_FEW_DESCRIPTORS";

/// Serves in a process of its own, with few descriptors, as the next test's other half; by itself it has nothing to do.
#[tokio::test]
async fn the_other_half_of_the_next_test_serves_with_few_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let bed = bed(Limits { connections: 1000, ..Limits::default() });
    println!("address {}", bed.agents.address());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_manager_out_of_descriptors_still_answers_and_does_not_spin() {
    use std::io::{BufRead, Read, Write};
    let mut child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg("net::tests::crowds::the_other_half_of_the_next_test_serves_with_few_descriptors")
        .env(CHILD, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let address: SocketAddr = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended early");
        if let Some((_, address)) = line.split_once("address ") {
            break address.trim().parse().unwrap();
        }
    };
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // A handshake is answered: the manager's certificate is of a CA that is not known here, which is all that can be seen.
    let trust = CaBundle::create(&"other.example".parse().unwrap(), World::system().now()).unwrap();
    let config = tls::agent_client(None, &ServerTrust::of_bundle(&trust), Clock::system()).unwrap();
    let answered = async {
        loop {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let error = TlsConnector::from(config.clone()).connect(name, socket).await.err().unwrap();
            if error.kind() == io::ErrorKind::InvalidData {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), answered).await.expect("a newcomer is answered although all descriptors are taken");
    let ticks =
        |text: String| text.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    let used: u64 = ticks(fs_err::read_to_string(format!("/proc/{}/stat", child.id())).unwrap());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(used < 300, "it used {used} hundredths of a second");
}
