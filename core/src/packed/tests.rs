use super::*;

fn content(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut source = open(path).unwrap();
    assert_eq!(source.len().unwrap(), size(path).unwrap());
    source.read_to_end(&mut bytes).unwrap();
    bytes
}

fn write(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn packed_files_are_found_under_their_names_and_tar_reads_the_archives() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("photos"), folder.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let long = format!("{}/{}.jpg", "deep".repeat(30), "x".repeat(150));
    let names = ["a.jpg", "b/empty.jpg", "b/c.jpg", &long];
    let files: Vec<Vec<u8>> = [700, 0, 512, 5].map(|length| vec![length as u8; length]).to_vec();
    for (name, content) in names.iter().zip(&files) {
        write(&source, name, content);
    }
    let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    let mut steps = 0;
    let go_on = |done| {
        steps = done;
        true
    };
    let summary = pack(&source, &paths, &out, 1500, go_on).unwrap().expect("nobody ends it");
    assert_eq!((summary.files, summary.bytes, summary.archives, steps), (4, 1217, 3, 4));

    assert!(is_packed(&out) && !is_packed(&source));
    mount(&out).unwrap();
    for (name, expected) in names.iter().zip(&files) {
        assert_eq!(&content(&out.join(name)), expected, "{name}");
        assert_eq!(&content(&source.join(name)), expected, "{name}");
    }
    assert!(open(&out.join("no.jpg")).is_err() && size(&out.join("no.jpg")).is_err());
    let mut found = super::files(&out);
    found.sort();
    let mut expected: Vec<PathBuf> = paths.iter().map(|name| out.join(name)).collect();
    expected.sort();
    assert_eq!(found, expected);

    let mut members = Vec::new();
    for number in 0..3 {
        let mut archive =
            tar::Archive::new(File::open(out.join(format!("photos-00000{number}.tar"))).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.push((entry.path().unwrap().to_string_lossy().into_owned(), bytes));
        }
    }
    let expected: Vec<_> = names.iter().map(ToString::to_string).zip(files).collect();
    assert_eq!(members, expected);
}

#[test]
fn what_is_cut_short_or_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("photos"), folder.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    write(&source, "a.jpg", &[1; 900]);
    let error = |names: &[&str]| {
        let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        pack(&source, &names, &out, 1 << 20, |_| true).unwrap_err().to_string()
    };
    assert!(error(&["gone.jpg"]).contains("gone.jpg"));
    write(&source, "a\tb.jpg", b"");
    assert!(error(&["a\tb.jpg"]).contains("rename it"));
    assert!(!is_packed(&out), "an unfinished folder has no index");

    let names = [PathBuf::from("a.jpg")];
    assert_eq!(pack(&source, &names, &out, 1 << 20, |_| false).unwrap(), None);
    assert!(!is_packed(&out), "nor has one that was broken off");
    pack(&source, &names, &out, 1 << 20, |_| true).unwrap();
    let archive = out.join("photos-000000.tar");
    File::options().write(true).open(&archive).unwrap().set_len(600).unwrap();
    assert!(mount(&out).unwrap_err().to_string().contains("shorter than its index says"));
    std::fs::remove_file(&archive).unwrap();
    assert!(mount(&out).unwrap_err().to_string().contains("photos-000000.tar"));
    write(&out, INDEX, b"something else\n");
    assert!(mount(&out).unwrap_err().to_string().contains("not the index of a packed folder"));
    write(&out, INDEX, format!("{HEADER}\n{ARCHIVES}photos\na.jpg\t0\t512\tmany\n").as_bytes());
    assert!(mount(&out).unwrap_err().to_string().contains("line 3 is damaged"));
}
