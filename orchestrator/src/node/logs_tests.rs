//! Logs from files, through the same reader that serves people.

use serde_json::json;

use super::*;
use crate::store::file_in;

struct Setting {
    dir: tempfile::TempDir,
    store: Store,
    pod: Object,
}

impl Setting {
    async fn new(restarts: i32, running: bool) -> Setting {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&file_in(dir.path())).unwrap();
        let pod = store
            .create(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {"containers": [{"name": "c"}]},
            }))
            .await
            .unwrap();
        let setting = Setting { dir, store, pod };
        setting.status(restarts, running).await;
        std::fs::create_dir_all(setting.log(0).parent().unwrap()).unwrap();
        setting
    }

    async fn status(&self, restarts: i32, running: bool) {
        let state = if running {
            json!({"running": {}})
        } else {
            json!({"terminated": {"exitCode": 0}})
        };
        let status = json!({"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
        }]});
        self.store
            .update_status(self.pod.key(), self.pod.uid(), status)
            .await
            .unwrap();
    }

    fn log(&self, attempt: u32) -> PathBuf {
        PodPaths::new(self.dir.path(), self.dir.path(), "default", "p", self.pod.uid()).log("c", attempt)
    }

    fn open(&self, options: Options) -> Result<mpsc::Receiver<Bytes>, LogError> {
        let pod = self.store.require(self.pod.key()).unwrap();
        stream(&self.store, self.dir.path(), self.dir.path(), &pod, options)
    }

    async fn text(&self, options: Options) -> String {
        all(self.open(options).unwrap()).await
    }
}

async fn all(mut receiver: mpsc::Receiver<Bytes>) -> String {
    let mut text = Vec::new();
    while let Some(piece) = receiver.recv().await {
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap()
}

fn line(second: u32, text: &str) -> String {
    format!("2026-01-02T03:04:{second:02}.000000000Z stdout F {text}\n")
}

#[tokio::test]
async fn options_choose_the_lines() {
    let setting = Setting::new(1, false).await;
    std::fs::write(setting.log(0), line(0, "old")).unwrap();
    let mut rotated = setting.log(1).into_os_string();
    rotated.push(".20260102030405");
    std::fs::write(rotated, line(1, "one") + &line(2, "two")).unwrap();
    let partial = "2026-01-02T03:04:03.000000000Z stdout P thr\n2026-01-02T03:04:03.000000000Z stdout F ee\n";
    std::fs::write(setting.log(1), partial.to_owned() + &line(4, "four")).unwrap();

    assert_eq!(setting.text(Options::default()).await, "one\ntwo\nthree\nfour\n");
    assert_eq!(
        setting
            .text(Options {
                previous: true,
                ..Options::default()
            })
            .await,
        "old\n"
    );
    for (tail, want) in [
        (0, ""),
        (1, "four\n"),
        (4, "two\nthree\nfour\n"),
        (99, "one\ntwo\nthree\nfour\n"),
    ] {
        let options = Options {
            tail: Some(tail),
            ..Options::default()
        };
        assert_eq!(setting.text(options).await, want, "tail {tail}");
    }
    let since = Some("2026-01-02T03:04:03Z".parse().unwrap());
    assert_eq!(
        setting
            .text(Options {
                since,
                ..Options::default()
            })
            .await,
        "three\nfour\n"
    );
    assert_eq!(
        setting
            .text(Options {
                limit_bytes: Some(5),
                ..Options::default()
            })
            .await,
        "one\nt"
    );
    let stamped = setting
        .text(Options {
            timestamps: true,
            tail: Some(1),
            ..Options::default()
        })
        .await;
    assert_eq!(stamped, "2026-01-02T03:04:04.000000000Z four\n");
}

#[tokio::test]
async fn following_crosses_a_rotation_and_ends_with_the_container() {
    let setting = Setting::new(0, true).await;
    std::fs::write(setting.log(0), line(1, "one")).unwrap();
    let mut receiver = setting
        .open(Options {
            follow: true,
            ..Options::default()
        })
        .unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "one\n");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(setting.log(0))
        .unwrap();
    std::io::Write::write_all(&mut file, line(2, "two").as_bytes()).unwrap();
    std::fs::rename(setting.log(0), setting.dir.path().join("away")).unwrap();
    std::fs::write(setting.log(0), line(3, "three")).unwrap();
    let mut text = String::new();
    while !text.ends_with("three\n") {
        text.push_str(std::str::from_utf8(&receiver.recv().await.unwrap()).unwrap());
    }
    assert_eq!(text, "two\nthree\n");
    setting.status(0, false).await;
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test]
async fn following_misses_no_file_of_a_log_that_is_rotated_faster_than_it_is_read() {
    let setting = Setting::new(0, true).await;
    std::fs::write(setting.log(0), line(1, "1")).unwrap();
    let mut receiver = setting
        .open(Options {
            follow: true,
            ..Options::default()
        })
        .unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "1\n");
    let rotate = |number: u32| {
        let name = format!("0.log.2026010100000{number}");
        std::fs::rename(setting.log(0), setting.log(0).with_file_name(name)).unwrap();
    };
    // No look at the log falls between these: this thread is the only one.
    for number in 2..6 {
        rotate(number);
        std::fs::write(setting.log(0), line(number, &number.to_string())).unwrap();
    }
    // The moment in which there is no newest file.
    rotate(6);
    let mut text = String::new();
    while text.len() < 8 {
        text.push_str(std::str::from_utf8(&receiver.recv().await.unwrap()).unwrap());
    }
    assert_eq!(text, "2\n3\n4\n5\n");
    // The file that is being read is removed, with all that are older.
    for number in 6..9 {
        std::fs::write(setting.log(0), line(number, &number.to_string())).unwrap();
        rotate(number + 1);
    }
    for number in 2..7 {
        let name = format!("0.log.2026010100000{number}");
        std::fs::remove_file(setting.log(0).with_file_name(name)).unwrap();
    }
    std::fs::write(setting.log(0), line(9, "9")).unwrap();
    let mut text = String::new();
    while !text.ends_with("9\n") {
        text.push_str(std::str::from_utf8(&receiver.recv().await.unwrap()).unwrap());
    }
    assert_eq!(text, "6\n7\n8\n9\n");
    setting.status(0, false).await;
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let setting = Setting::new(0, true).await;
    let error = |options| setting.open(options).unwrap_err().to_string();
    assert!(error(Options::default()).contains("is waiting to start"));
    let previous = error(Options {
        previous: true,
        ..Options::default()
    });
    assert_eq!(
        previous,
        "previous terminated container \"c\" in pod \"p\" not found"
    );
    let unknown = error(Options {
        container: Some("x".into()),
        ..Options::default()
    });
    assert_eq!(unknown, "container x is not valid for pod p");
}

#[test]
fn last_words_are_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(
        &path,
        (0..9).map(|n| line(n, &format!("line {n}"))).collect::<String>(),
    )
    .unwrap();
    assert_eq!(last_words(&path, 2, 2048), "line 7\nline 8\n");
    assert_eq!(last_words(&path, 80, 7), "line 8\n");
    assert_eq!(last_words(&dir.path().join("none"), 80, 7), "");
}
