//! The benchmark's report in a browser. Without Chromium or Chrome on the path that is skipped and said, unless
//! `SCRL_REQUIRE_BROWSER` is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A browser, where there is one.
fn browser() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    names.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()))
}

/// Opens the report as wide as a desktop's window and as a phone's: nothing sticks out, and every picture loads.
pub fn screens_show_the_report(out: &Path) {
    let Some(browser) = browser() else {
        assert!(
            std::env::var_os("SCRL_REQUIRE_BROWSER").is_none(),
            "no chromium or google-chrome on the path"
        );
        eprintln!("skipped: no chromium or google-chrome on the path to open the report with");
        return;
    };
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    let script = "<script>addEventListener('load', () => parent.postMessage({width: innerWidth, \
        scroll: document.documentElement.scrollWidth, images: document.images.length, \
        broken: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length, \
        charts: document.querySelectorAll('figure svg').length}, '*'));</script></body>";
    fs::write(out.join("measured.html"), page.replace("</body>", script)).unwrap();
    for width in [1280, 390] {
        let frame = format!(
            "<!doctype html><body><iframe src=\"measured.html\" style=\"border:0;width:{width}px;height:900px\"></iframe>\
             <script>addEventListener('message', e => {{ document.title = JSON.stringify(e.data) }})</script></body>"
        );
        fs::write(out.join("frame.html"), frame).unwrap();
        let dump = Command::new(&browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--window-size=1400,1000",
                "--virtual-time-budget=10000",
            ])
            .arg(format!("--user-data-dir={}", out.join("browser").display()))
            .args(["--dump-dom", &format!("file://{}", out.join("frame.html").display())])
            .output()
            .expect("the browser starts");
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        let title = dump.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
        let seen: Value =
            serde_json::from_str(title.unwrap_or_else(|| panic!("no answer at {width}: {dump}"))).unwrap();
        assert_eq!(seen["width"], width, "{seen}");
        assert!(seen["scroll"].as_u64() <= seen["width"].as_u64(), "something sticks out at {width}: {seen}");
        assert_eq!(seen["broken"], 0, "{seen}");
        assert!(seen["images"].as_u64() > Some(10) && seen["charts"].as_u64() >= Some(3), "{seen}");
    }
}
