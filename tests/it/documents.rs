//! The documents: what a reader is promised of them.

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every link of a document to a file of this repository.
fn links(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#') && !target.starts_with("crate::"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file() {
    for document in ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "cli/README.md"] {
        let folder = Path::new(document).parent().unwrap();
        for link in links(document) {
            let file = link.split('#').next().unwrap();
            assert!(root().join(folder).join(file).exists(), "{document}: {link}");
        }
    }
    assert!(links("README.md").len() > 20);
}

#[test]
fn the_readme_is_one_page_without_hidden_lines() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (lines, words) = (readme.lines().count(), readme.split_whitespace().count());
    assert!(lines <= 160 && words <= 1000, "{lines} lines, {words} words");
    let mut is_rust = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            is_rust = line.starts_with("```rust");
        }
        assert!(!(is_rust && (line == "#" || line.starts_with("# "))), "rustdoc hides {line:?}, and readers see it");
    }
}
