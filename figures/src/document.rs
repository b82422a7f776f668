//! A document of headings, paragraphs, tables and figures, as Markdown and as a page that needs no other file.
//!
//! Text is Markdown's simplest part: `code` between backticks and `[text](link)`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use base64::Engine as _;

/// A part of the document.
pub enum Block {
    /// A heading.
    Heading(String),
    /// A heading below the last one.
    Subheading(String),
    /// A paragraph of plain text.
    Paragraph(String),
    /// A list of points.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// Charts side by side where there is room.
    Charts(Vec<Picture>),
    /// Rows of pictures: a name for the row, then a picture a column.
    Gallery {
        /// Captions of the columns.
        columns: Vec<String>,
        /// Caption and pictures of each row; none leaves a cell empty.
        rows: Vec<(String, Vec<Option<Picture>>)>,
    },
    /// Text as it is, in a typewriter font.
    Code(String),
}

/// A file below the report's folder.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Path relative to the document.
    pub file: String,
    /// What it shows, for those who do not see it.
    pub description: String,
    /// Follows the column's name in a gallery.
    pub note: Option<String>,
}

/// The first column names the row; the others are numbers or short words.
#[derive(Default)]
pub struct Table {
    /// Captions of the columns.
    pub header: Vec<String>,
    /// Cells of each row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// A title and what follows it.
pub struct Document {
    /// The heading of all.
    pub title: String,
    /// The parts in order.
    pub blocks: Vec<Block>,
}

impl Document {
    /// Pictures are links to files beside the document.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", self.title);
        for block in &self.blocks {
            text.push('\n');
            match block {
                Block::Heading(title) => line(&mut text, &format!("## {title}")),
                Block::Subheading(title) => line(&mut text, &format!("### {title}")),
                Block::Paragraph(words) => line(&mut text, words),
                Block::List(items) => items.iter().for_each(|item| line(&mut text, &format!("- {item}"))),
                Block::Table(table) => text.push_str(&markdown_table(table)),
                Block::Charts(charts) => charts.iter().for_each(|chart| {
                    line(&mut text, &format!("![{}]({})", chart.description, chart.file));
                }),
                Block::Gallery { columns, rows } => text.push_str(&markdown_gallery(columns, rows)),
                Block::Code(code) => line(&mut text, &format!("```sh\n{code}\n```")),
            }
        }
        text
    }

    /// A page of its own; pictures are read from `folder` and put into it.
    pub fn html(&self, folder: &Path) -> String {
        let mut body = format!("<h1>{}</h1>\n{}", inline(&self.title), self.contents());
        for block in &self.blocks {
            match block {
                Block::Heading(title) => {
                    line(&mut body, &format!("<h2 id=\"{}\">{}</h2>", anchor(title), inline(title)));
                }
                Block::Subheading(title) => line(&mut body, &format!("<h3>{}</h3>", inline(title))),
                Block::Paragraph(words) => line(&mut body, &format!("<p>{}</p>", inline(words))),
                Block::List(items) => {
                    let items: String =
                        items.iter().map(|item| format!("<li>{}</li>", inline(item))).collect();
                    line(&mut body, &format!("<ul>{items}</ul>"));
                }
                Block::Table(table) => body.push_str(&html_table(table)),
                Block::Charts(charts) => {
                    let charts: String = charts.iter().map(|chart| html_chart(chart, folder)).collect();
                    line(&mut body, &format!("<div class=\"charts\">{charts}</div>"));
                }
                Block::Gallery { columns, rows } => body.push_str(&html_gallery(columns, rows, folder)),
                Block::Code(code) => line(&mut body, &format!("<pre><code>{}</code></pre>", escape(code))),
            }
        }
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n\
             <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
            escape(&self.title),
            include_str!("style.css")
        )
    }

    fn contents(&self) -> String {
        let heading = |block: &Block| match block {
            Block::Heading(title) => Some(format!("<a href=\"#{}\">{}</a>", anchor(title), inline(title))),
            _ => None,
        };
        let links: Vec<String> = self.blocks.iter().filter_map(heading).collect();
        format!("<nav aria-label=\"Contents\">{}</nav>\n", links.join(" "))
    }
}

fn line(text: &mut String, words: &str) {
    writeln!(text, "{words}").expect("writing to a string");
}

fn markdown_table(table: &Table) -> String {
    // A bar ends a cell, and so does the end of a line.
    let cell = |text: &String| text.replace('|', "\\|").replace('\n', " ");
    let row = |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
    let rule = format!("|{}\n", "---|".repeat(table.header.len()));
    row(&table.header) + &rule + &table.rows.iter().map(|cells| row(cells)).collect::<String>()
}

fn markdown_gallery(columns: &[String], rows: &[(String, Vec<Option<Picture>>)]) -> String {
    let mut table = Table {
        header: std::iter::once(String::new()).chain(columns.iter().cloned()).collect(),
        rows: Vec::new(),
    };
    for (name, pictures) in rows {
        let picture = |picture: &Option<Picture>| {
            picture.as_ref().map_or("–".to_string(), |p| format!("![{}]({})", p.description, p.file))
        };
        table.row(std::iter::once(name.clone()).chain(pictures.iter().map(picture)));
    }
    markdown_table(&table)
}

fn html_table(table: &Table) -> String {
    let is_text: Vec<bool> = (0..table.header.len()).map(|column| is_text(table, column)).collect();
    let class = |index: usize| if is_text.get(index) == Some(&true) { " class=\"text\"" } else { "" };
    let head =
        |(index, cell): (usize, &String)| format!("<th scope=\"col\"{}>{}</th>", class(index), inline(cell));
    let body = |(index, cell): (usize, &String)| match index {
        0 => format!("<th scope=\"row\">{}</th>", inline(cell)),
        _ => format!("<td{}>{}</td>", class(index), inline(&unbroken(cell))),
    };
    let head: String = table.header.iter().enumerate().map(head).collect();
    let row = |cells: &Vec<String>| {
        format!("<tr>{}</tr>\n", cells.iter().enumerate().map(body).collect::<String>())
    };
    let rows: String = table.rows.iter().map(row).collect();
    format!(
        "<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>{head}</tr>\n</thead>\n<tbody>{rows}</tbody>\n\
         </table></div>\n"
    )
}

/// Whether a column holds words, which are read from the left, and not numbers.
fn is_text(table: &Table, column: usize) -> bool {
    let word = |cell: &String| cell.starts_with(|c: char| c.is_alphabetic() || matches!(c, '[' | '`'));
    table.rows.iter().filter_map(|row| row.get(column)).any(word)
}

/// A figure with its spread breaks nowhere but before its interval, a share not before its percent sign.
fn unbroken(cell: &str) -> String {
    let cell = cell.replace(" %", "\u{a0}%");
    if cell.contains('±') { cell.replace(" ± ", "\u{a0}±\u{a0}").replace(", ", ",\u{a0}") } else { cell }
}

/// A chart's SVG as it is, so that its text stays text.
fn html_chart(chart: &Picture, folder: &Path) -> String {
    match fs::read_to_string(folder.join(&chart.file)) {
        Ok(svg) => format!("<figure>{svg}</figure>\n"),
        Err(error) => missing(chart, &error),
    }
}

fn html_gallery(columns: &[String], rows: &[(String, Vec<Option<Picture>>)], folder: &Path) -> String {
    let mut text = String::new();
    for (name, pictures) in rows {
        let figure = |(column, picture): (&String, &Option<Picture>)| {
            let image = match picture {
                Some(picture) => data_image(picture, folder),
                None => "<p class=\"none\">no picture</p>".into(),
            };
            let note = picture.as_ref().and_then(|picture| picture.note.as_deref()).unwrap_or_default();
            let caption = format!("{column} {note}");
            format!("<figure>{image}<figcaption>{}</figcaption></figure>\n", inline(caption.trim_end()))
        };
        let figures: String = columns.iter().zip(pictures).map(figure).collect();
        line(&mut text, &format!("<h4>{}</h4>\n<div class=\"gallery\">{figures}</div>", inline(name)));
    }
    text
}

fn data_image(picture: &Picture, folder: &Path) -> String {
    let kind = if picture.file.ends_with(".png") { "png" } else { "jpeg" };
    match fs::read(folder.join(&picture.file)) {
        Ok(bytes) => format!(
            "<img alt=\"{}\" src=\"data:image/{kind};base64,{}\">",
            escape(&picture.description),
            base64(&bytes)
        ),
        Err(error) => missing(picture, &error),
    }
}

fn missing(picture: &Picture, error: &std::io::Error) -> String {
    format!(
        "<p class=\"none\">`{}` cannot be read: {}</p>",
        escape(&picture.file),
        escape(&error.to_string())
    )
}

/// Backticks and links of one line.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            html.push_str(&format!("<code>{}</code>", escape(part)));
        } else {
            html.push_str(&links(part));
        }
    }
    html
}

fn links(text: &str) -> String {
    let Some((before, rest)) = text.split_once('[') else { return escape(text) };
    let parts = rest.split_once("](").and_then(|(name, rest)| Some((name, rest.split_once(')')?)));
    match parts {
        Some((name, (target, after))) => {
            format!("{}<a href=\"{}\">{}</a>{}", escape(before), escape(target), escape(name), links(after))
        }
        None => escape(text),
    }
}

fn anchor(title: &str) -> String {
    title.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// For text and attributes.
pub(crate) fn escape(text: &str) -> String {
    html_escape::encode_double_quoted_attribute(text).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_line_ends_stay_inside_a_cell() {
        let mut table = Table::new(&["class"]);
        table.row(["a|b\nc".to_string()]);
        assert_eq!(markdown_table(&table), "| class |\n|---|\n| a\\|b c |\n");
    }

    #[test]
    fn text_is_escaped_and_links_and_code_are_kept() {
        assert_eq!(
            inline("a < b & `x <y>` [file](a/b.onnx), end"),
            "a &lt; b &amp; <code>x &lt;y&gt;</code> <a href=\"a/b.onnx\">file</a>, end"
        );
        assert_eq!(inline("[half a link"), "[half a link");
    }

    #[test]
    fn a_page_holds_its_pictures_itself() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.png"), [1, 2, 3]).unwrap();
        fs::write(folder.path().join("b.svg"), "<svg></svg>").unwrap();
        let picture =
            |file: &str| Picture { file: file.into(), description: "what \"it\" shows".into(), note: None };
        let blocks = vec![
            Block::Charts(vec![picture("b.svg")]),
            Block::Gallery {
                columns: vec!["scrl".into()],
                rows: vec![("one".into(), vec![Some(picture("a.png"))])],
            },
        ];
        let page = Document { title: "T".into(), blocks }.html(folder.path());
        assert!(page.contains("<figure><svg></svg></figure>"), "{page}");
        assert!(
            page.contains("alt=\"what &quot;it&quot; shows\" src=\"data:image/png;base64,AQID\""),
            "{page}"
        );
    }
}
