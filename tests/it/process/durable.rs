//! What a 201 promises, seen from outside: the system calls of the process.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use super::{PATIENCE, Process, memory};

const CALLS: &str = "trace=fdatasync,fsync,pwrite64,write,writev,sendto,sync_file_range";

/// One finished system call, in the order in which they ended.
#[derive(Debug)]
struct Call {
    thread: String,
    name: String,
    arguments: String,
    result: i64,
    /// Lines of the trace in which it began and ended: a flush covers what ended before it began.
    began: usize,
    ended: usize,
}

/// Reads strace's output; puts calls that others interrupted together again.
fn calls(trace: &str) -> Vec<Call> {
    let (mut open, mut calls) = (BTreeMap::new(), Vec::new());
    for (line_no, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        let (began, whole) = if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread.to_owned(), (line_no, begun.to_owned()));
            continue;
        } else if rest.starts_with("<...") {
            let Some((began, head)) = open.remove(thread) else {
                continue;
            };
            let end = rest.split_once("resumed>").map_or("", |(_, end)| end);
            (began, format!("{head}{end}"))
        } else {
            (line_no, rest.to_owned())
        };
        let Some((name, arguments)) = whole.split_once('(') else {
            continue;
        };
        let Some((arguments, result)) = arguments.rsplit_once(" = ") else {
            continue;
        };
        let result = result
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok());
        calls.push(Call {
            thread: thread.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            result: result.unwrap_or(-1),
            began,
            ended: line_no,
        });
    }
    calls
}

/// For each 201 the answer to: was there a flush that began after the last write to the log?
fn proved(calls: &[Call]) -> Vec<bool> {
    let (mut last_write, mut flushed, mut answers) = (None, false, Vec::new());
    for call in calls {
        match call.name.as_str() {
            "pwrite64" => (last_write, flushed) = (Some(call.ended), false),
            "fdatasync" | "fsync" if call.result == 0 => {
                flushed |= last_write.is_some_and(|written| written < call.began);
            }
            _ if call.arguments.contains("HTTP/1.1 201") => {
                answers.push(flushed);
                // The next one needs a write and a flush of its own.
                (last_write, flushed) = (None, false);
            }
            _ => {}
        }
    }
    answers
}

/// For each 201: did the thread that answers do the last flush before?
fn by_themselves(calls: &[Call]) -> Vec<bool> {
    let (mut flusher, mut answers) = (None, Vec::new());
    for call in calls {
        if call.name == "fdatasync" {
            flusher = Some(&call.thread);
        } else if call.arguments.contains("HTTP/1.1 201") {
            answers.push(flusher == Some(&call.thread));
        }
    }
    answers
}

#[test]
fn every_201_is_sent_after_a_flush_of_its_write() {
    let folder = tempfile::tempdir().unwrap();
    let (data, trace) = (folder.path().join("data"), folder.path().join("trace"));
    let mut command = Command::new("strace");
    command
        .args(["-f", "-s", "20", "-e", CALLS, "-o", trace.to_str().unwrap()])
        .args([super::binary().as_str(), "--workers", "2"])
        .args(["--port", "0", "--data-dir"])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if Command::new("strace").arg("--version").output().is_err() {
        // Each start proves that flushes are ours, and the crash test that answers come after them;
        // this watches both from outside, which CI must.
        let missing =
            "strace is not installed, system calls were NOT watched: apt-get install strace";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        println!("{missing}");
        return;
    }
    let mut process = Process::of(command);
    process.address = process
        .wait_for_address(PATIENCE)
        .unwrap_or_else(|| panic!("it does not start:\n{}", process.log.text()));
    let mut client = process.client();
    let key = client.sign_up("a@example.com", "Pro");
    for n in 0..160 {
        let mut body = memory(&n.to_string());
        if n % 16 == 0 {
            // One that is stored in pieces.
            body["input"] = "long ".repeat(6_000).into();
        }
        client
            .with_key(&key, "POST", "/memory", Some(&body))
            .expect(201);
    }
    // strace passes no signal on: its child is told itself.
    let children = format!("/proc/{0}/task/{0}/children", process.child.id());
    let child: i32 = std::fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // SAFETY: a signal to the child of the strace that this test started and has not waited for yet.
    #[expect(unsafe_code, reason = "std sends SIGKILL only")]
    let sent = unsafe { libc::kill(child, libc::SIGTERM) };
    assert_eq!(sent, 0);
    let (status, log) = process.ended(PATIENCE);
    assert_eq!(status.code(), Some(0), "{log}");
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(
        !trace.contains("sync_file_range"),
        "sled's own flush, which is none, was called"
    );
    let calls = calls(&trace);
    // The sign-up and the adds.
    assert_eq!(proved(&calls), vec![true; 161], "{trace}");
    // The committer flushes first, and after 16 flushes for one who writes alone that one: unless the committer, held up
    // before it gives its turn back, is met then, which begins the count anew. So there are many more adds than 16.
    let by_themselves = by_themselves(&calls);
    assert_eq!(by_themselves.first(), Some(&false), "{trace}");
    assert!(by_themselves.contains(&true), "{trace}");
}

#[test]
fn a_trace_without_a_flush_between_is_seen() {
    let good =
        "7 pwrite64(3, \"a\"..., 9, 0) = 9\n7 fdatasync(3) = 0\n8 writev(9, \"HTTP/1.1 201\") = 5";
    assert_eq!(proved(&calls(good)), [true]);
    let flushed_before = "7 fdatasync(3 <unfinished ...>\n8 pwrite64(3, \"a\", 9, 0) = 9\n\
                          7 <... fdatasync resumed>) = 0\n8 writev(9, \"HTTP/1.1 201\") = 5";
    assert_eq!(proved(&calls(flushed_before)), [false]);
    let none =
        "7 pwrite64(3, \"a\", 9, 0) = 9\n8 writev(9, \"HTTP/1.1 201\") = 5\n7 fdatasync(3) = 0";
    assert_eq!(proved(&calls(none)), [false]);
    let failed = "7 pwrite64(3, \"a\", 9, 0) = 9\n7 fdatasync(3) = -1 EIO\n8 writev(9, \"HTTP/1.1 201\") = 5";
    assert_eq!(proved(&calls(failed)), [false]);
}
