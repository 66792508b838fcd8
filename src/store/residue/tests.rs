//! Where a text is found, and where it is gone.

use std::ops::ControlFlow;

use super::*;
use crate::domain::account::AccountKey;
use crate::store::compact;
use crate::store::testing::{NOW, add_text, new_key, sign_up};

const TEXT: &str = "Zoë said \"seventeen\"";

async fn store(path: &Path) -> (Store, AccountKey) {
    let (store, _) = Store::open(path, Options::default()).unwrap();
    let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("first-key")).await;
    (store, account)
}

fn find(path: &Path, text: &str) -> ResidueReport {
    let text = ResidueText::parse(text).unwrap();
    find_residue(path, Options::default(), &text, &mut |_, _, _| ()).unwrap()
}

fn compact_data(path: &Path) {
    compact(path, Options::default(), &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
}

/// The lines of the trees, and whether the database's files hold the text.
fn places(report: &ResidueReport) -> (Vec<&str>, bool) {
    let (trees, files): (Vec<&str>, Vec<&str>) = report
        .found
        .iter()
        .map(String::as_str)
        .partition(|line| line.starts_with("tree "));
    (
        trees,
        files.iter().any(|line| line.starts_with("db/db: at byte ")),
    )
}

/// Shows a text that is stored, deleted and compacted: in the tree and in the files, in the files only, nowhere; an
/// e-mail in any case, a description of a key, and nothing of the text in the report.
#[tokio::test]
async fn a_deleted_text_is_in_the_files_until_they_are_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (open, account) = store(path).await;
    let id = add_text(&open, account, 1, &format!("Ana and {TEXT} to Bo")).await;
    drop(open);
    let stored = find(path, TEXT);
    let (trees, in_files) = places(&stored);
    assert_eq!(trees.len(), 1, "{stored:?}");
    assert!(trees[0].starts_with("tree memories: acct_"), "{trees:?}");
    assert!(in_files, "{stored:?}");
    assert!(stored.to_string().starts_with("found in "), "{stored}");
    for said in stored.found.iter().chain([&stored.to_string()]) {
        assert!(!said.contains("seventeen"), "{said}");
    }
    let email = find(path, "BO@Example.com");
    let (trees, in_files) = places(&email);
    assert!(
        trees.contains(&"tree names: a key") && in_files,
        "{email:?}"
    );
    assert!(
        trees.iter().any(|line| line.starts_with("tree users: ")),
        "{email:?}"
    );
    assert!(!format!("{email:?}").contains("example"), "{email:?}");
    let described = find(path, "test");
    assert!(
        places(&described)
            .0
            .iter()
            .any(|line| line.starts_with("tree keys: "))
    );

    let (open, _) = Store::open(path, Options::default()).unwrap();
    open.delete_memory(account, 1, id, NOW).await.unwrap();
    drop(open);
    let deleted = find(path, TEXT);
    assert_eq!(places(&deleted), (vec![], true), "{deleted:?}");
    compact_data(path);
    let gone = find(path, TEXT);
    assert!(gone.is_clean(), "{gone:?}");
    assert!(
        gone.files > 3 && gone.bytes > 1_000 && gone.records > 5,
        "{gone}"
    );
    assert!(gone.to_string().starts_with("not found in "), "{gone}");
    assert!(
        !find(path, "bo@example.com").is_clean(),
        "what is live stays"
    );
}

/// Shows that a text across two pieces of a long memory is found in the tree, where no file shows it as one run; and
/// one across two readings of a file.
#[tokio::test]
async fn a_text_across_a_border_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (open, account) = store(path).await;
    let numbers: Vec<String> = (10_000..14_000).map(|n| n.to_string()).collect();
    add_text(&open, account, 1, &numbers.join(" ")).await;
    let pieces: Vec<Vec<u8>> = open
        .trees()
        .pieces
        .iter()
        .values()
        .map(|piece| unversioned(&piece.unwrap()).unwrap().to_vec())
        .collect();
    drop(open);
    assert!(pieces.len() > 2);
    for pair in pieces.windows(2) {
        let (one, two) = (&pair[0], &pair[1]);
        let across = [&one[one.len() - 6..], &two[..6]].concat();
        let found = find(path, std::str::from_utf8(&across).unwrap());
        let (trees, in_files) = places(&found);
        assert_eq!(trees.len(), 1, "{found:?}");
        assert!(trees[0].starts_with("tree pieces: m acct_"), "{trees:?}");
        assert!(!in_files, "{found:?}");
    }
    for back in [1, 5, 10] {
        let mut bytes = vec![b'.'; 2 * CHUNK_BYTES];
        let at = CHUNK_BYTES - back;
        bytes[at..at + 11].copy_from_slice(b"eleven char");
        fs::create_dir_all(path.join("backups/more")).unwrap();
        fs::write(path.join("backups/more/notes"), bytes).unwrap();
        let found = find(path, "eleven char");
        assert_eq!(found.found, [format!("backups/more/notes: at byte {at}")]);
    }
}

/// Shows that a backup in the directory is read through, that one which cannot be is told, and a directory in use or
/// without data too.
#[tokio::test]
async fn backups_are_searched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let (open, account) = store(&path).await;
    let id = add_text(&open, account, 1, TEXT).await;
    fs::create_dir(path.join("backups")).unwrap();
    let file = path.join("backups/a.backup");
    let (backing, to) = (open.clone(), file.clone());
    let back_up = move || backing.back_up(&to, NOW, &mut |_, _| ControlFlow::Continue(()));
    tokio::task::spawn_blocking(back_up).await.unwrap().unwrap();
    open.delete_memory(account, 1, id, NOW).await.unwrap();
    let text = ResidueText::parse(TEXT).unwrap();
    let in_use = find_residue(&path, Options::default(), &text, &mut |_, _, _| ());
    assert!(matches!(
        in_use,
        Err(ResidueError::Open(OpenError::Locked(_)))
    ));
    drop(open);
    compact_data(&path);
    let found = find(&path, TEXT);
    assert_eq!(found.found, ["backups/a.backup: 1 record of the backup"]);
    assert_eq!((found.backups, found.unread.len()), (1, 0));

    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let unread = find(&path, TEXT);
    assert_eq!((unread.found.len(), unread.unread.len()), (0, 1));
    assert!(!unread.is_clean());
    assert!(
        unread.unread[0].contains("is cut off"),
        "{:?}",
        unread.unread
    );
    assert!(
        unread.to_string().ends_with("1 could not be searched"),
        "{unread}"
    );
    fs::remove_file(&file).unwrap();
    assert!(find(&path, TEXT).is_clean());

    let none = find_residue(
        &folder.path().join("no"),
        Options::default(),
        &text,
        &mut |_, _, _| (),
    );
    assert!(matches!(none, Err(ResidueError::NoData(_))));
    assert!(!folder.path().join("no").exists());
}
