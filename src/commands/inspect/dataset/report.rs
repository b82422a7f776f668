//! The report, as JSON and as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scrl_core::structures::Size;
use serde::Serialize;

use super::files::{Duplicate, FileFacts};
use super::masks::MaskStatistics;
use super::splits::{Content, Entry, Format, Split};
use super::statistics::{BoxStatistics, SizeStatistics, Spread};

/// Lines of each kind of finding that are printed; the JSON has all.
const SHOWN: usize = 5;
/// Classes that are printed.
const CLASSES: usize = 20;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct DatasetReport {
    pub data: String,
    pub format: Format,
    /// Number of problems: missing, broken and wrongly sized files, annotations, boxes, groups of duplicates.
    pub findings: usize,
    pub splits: Vec<SplitReport>,
    /// Classes without an object in any split.
    pub classes_without_objects: Vec<String>,
    /// Classes that some splits list and others do not.
    pub class_differences: Vec<String>,
    pub duplicates: Vec<Duplicate>,
}

/// What was found in a split.
#[derive(Debug, Serialize)]
pub struct SplitReport {
    pub name: String,
    pub images: usize,
    pub readable: usize,
    pub sizes: Option<SizeStatistics>,
    pub classes: Vec<ClassCount>,
    /// `None` for folders of images.
    pub boxes: Option<BoxStatistics>,
    /// `None` where no object has a mask.
    pub masks: Option<MaskStatistics>,
    pub missing: Vec<String>,
    pub broken: Vec<BrokenFile>,
    /// Images of another size than their annotation says; training refuses them.
    pub wrong_size: Vec<String>,
    pub unreadable_annotations: Vec<String>,
    /// As `file: class [numbers of the annotation]`.
    pub degenerate_boxes: Vec<String>,
    /// Of objects that are there without their mask.
    pub unusable_masks: Vec<String>,
    /// Masks that can be used, but are hardly meant so.
    pub doubtful_masks: Vec<String>,
    /// Files and folders that nothing is made of.
    pub left_out: Vec<String>,
}

/// A class in numbers.
#[derive(Debug, Serialize)]
pub struct ClassCount {
    pub name: String,
    /// Images with the class.
    pub images: usize,
    /// Boxes of the class; the images, where images have no boxes.
    pub objects: usize,
}

/// A file that cannot be decoded.
#[derive(Debug, Serialize)]
pub struct BrokenFile {
    pub file: String,
    pub reason: String,
}

impl SplitReport {
    pub fn new(split: &Split, facts: &[FileFacts]) -> Self {
        let sizes: Vec<Size> = facts
            .iter()
            .filter_map(|facts| if let FileFacts::Image { size, .. } = facts { Some(*size) } else { None })
            .collect();
        let both = || split.images.iter().zip(facts);
        let missing = both().filter(|(_, facts)| matches!(facts, FileFacts::Missing));
        let broken = both().filter_map(|(entry, facts)| match facts {
            FileFacts::Broken(reason) => {
                Some(BrokenFile { file: entry.name.clone(), reason: reason.clone() })
            }
            _ => None,
        });
        let annotated = || {
            split.images.iter().filter_map(|entry| match &entry.content {
                Content::Annotated(image) => Some(image),
                Content::Plain(_) => None,
            })
        };
        let (masks, doubtful_masks) = MaskStatistics::of(annotated());
        Self {
            name: split.name.clone(),
            images: split.images.len(),
            readable: sizes.len(),
            sizes: SizeStatistics::of(&sizes),
            classes: classes(split),
            boxes: annotated().next().map(|_| BoxStatistics::of(annotated(), split.dropped.len())),
            masks,
            missing: missing.map(|(entry, _)| entry.name.clone()).collect(),
            broken: broken.collect(),
            wrong_size: both().filter_map(|(entry, facts)| wrong_size(entry, facts)).collect(),
            unreadable_annotations: split.problems.clone(),
            degenerate_boxes: split.dropped.clone(),
            unusable_masks: split.bad_masks.clone(),
            doubtful_masks,
            left_out: split.left_out.clone(),
        }
    }

    fn findings(&self) -> usize {
        self.missing.len()
            + self.broken.len()
            + self.wrong_size.len()
            + self.unreadable_annotations.len()
            + self.degenerate_boxes.len()
            + self.unusable_masks.len()
            + self.doubtful_masks.len()
            + self.left_out.len()
    }
}

fn wrong_size(entry: &Entry, facts: &FileFacts) -> Option<String> {
    let (Content::Annotated(image), FileFacts::Image { size, .. }) = (&entry.content, facts) else {
        return None;
    };
    image.size_problem(*size).map(|problem| format!("{}: {problem}", entry.name))
}

fn classes(split: &Split) -> Vec<ClassCount> {
    let count = |name: &String| ClassCount { name: name.clone(), images: 0, objects: 0 };
    let mut counts: Vec<ClassCount> = split.categories.iter().map(|category| count(&category.name)).collect();
    for entry in &split.images {
        let mut members: Vec<usize> = match &entry.content {
            Content::Annotated(image) => image.objects.iter().map(|object| object.category).collect(),
            Content::Plain(label) => label.iter().copied().collect(),
        };
        members.iter().for_each(|&class| counts[class].objects += 1);
        members.sort_unstable();
        members.dedup();
        members.iter().for_each(|&class| counts[class].images += 1);
    }
    counts
}

impl DatasetReport {
    pub fn new(data: &Path, format: Format, splits: Vec<SplitReport>, duplicates: Vec<Duplicate>) -> Self {
        // VOC's twenty classes are listed wherever only they occur.
        let classes_without_objects = match format {
            Format::Voc => Vec::new(),
            Format::Coco | Format::Folder => classes_without_objects(&splits),
        };
        let class_differences = class_differences(&splits);
        let of_splits = splits.iter().map(SplitReport::findings).sum::<usize>();
        let findings = of_splits + classes_without_objects.len() + class_differences.len() + duplicates.len();
        let data = data.display().to_string();
        Self { data, format, findings, splits, classes_without_objects, class_differences, duplicates }
    }

    /// A summary for people.
    pub fn print(&self) {
        println!("{}: {}", self.data, self.format.describe());
        self.splits.iter().for_each(print_split);
        let across = self.duplicates.iter().filter(|duplicate| duplicate.across_splits).count();
        let title = format!("groups of equal images ({across} across splits)");
        let groups: Vec<String> = self.duplicates.iter().map(|group| group.images.join(" = ")).collect();
        println!();
        print_findings("classes without any object", &self.classes_without_objects);
        print_findings("classes that not every split has", &self.class_differences);
        print_findings(&title, &groups);
        match self.findings {
            0 => println!("nothing to complain about"),
            1 => println!("1 finding; it is in report.json"),
            count => println!("{count} findings; all of them are in report.json"),
        }
    }
}

/// Classes that are listed and have no object anywhere, as the parents that some exporters add.
fn classes_without_objects(splits: &[SplitReport]) -> Vec<String> {
    let mut objects = BTreeMap::<&str, usize>::new();
    for class in splits.iter().flat_map(|split| &split.classes) {
        *objects.entry(&class.name).or_default() += class.objects;
    }
    objects.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name.to_string()).collect()
}

/// As `SPLIT lacks CLASS, CLASS`, for splits with annotations or class folders.
fn class_differences(splits: &[SplitReport]) -> Vec<String> {
    let with_classes = || splits.iter().filter(|split| !split.classes.is_empty());
    let all: BTreeSet<&str> =
        with_classes().flat_map(|split| &split.classes).map(|class| class.name.as_str()).collect();
    let difference = |split: &SplitReport| {
        let own: BTreeSet<&str> = split.classes.iter().map(|class| class.name.as_str()).collect();
        let absent: Vec<&str> = all.difference(&own).copied().collect();
        (!absent.is_empty()).then(|| format!("{} lacks {}", split.name, absent.join(", ")))
    };
    with_classes().filter_map(difference).collect()
}

fn print_split(split: &SplitReport) {
    println!("\n{}: {} images, {} readable", split.name, split.images, split.readable);
    if let Some(sizes) = &split.sizes {
        let common: Vec<String> =
            sizes.common.iter().map(|(size, count)| format!("{size} ({count})")).collect();
        print_row("width", &spread(&sizes.width));
        print_row("height", &spread(&sizes.height));
        print_row(
            "shape",
            &format!("{} landscape, {} portrait, {} square", sizes.landscape, sizes.portrait, sizes.square),
        );
        print_row("frequent", &common.join(", "));
    }
    if let Some(boxes) = &split.boxes {
        print_boxes(boxes);
    }
    if let Some(masks) = &split.masks {
        let MaskStatistics { masks, polygons, run_lengths, self_crossing } = masks;
        let crossing = format!("{self_crossing} with outlines that cross themselves");
        print_row("masks", &format!("{masks} ({polygons} polygons, {run_lengths} run lengths, {crossing})"));
    }
    print_classes(&split.classes, split.boxes.is_some());
    print_findings("files missing", &split.missing);
    let broken: Vec<String> = split.broken.iter().map(|broken| broken.reason.clone()).collect();
    print_findings("files broken", &broken);
    print_findings("sizes other than annotated", &split.wrong_size);
    print_findings("unreadable or contradictory", &split.unreadable_annotations);
    print_findings("boxes without area", &split.degenerate_boxes);
    print_findings("masks that cannot be used", &split.unusable_masks);
    print_findings("doubtful masks", &split.doubtful_masks);
    print_findings("left out", &split.left_out);
}

fn print_boxes(boxes: &BoxStatistics) {
    let [thin, slim, tall, wide, flat, flattest] = boxes.aspect_ratios;
    print_row("boxes", &format!("{} ({} crowd, {} difficult)", boxes.boxes, boxes.crowd, boxes.difficult));
    print_row("area", &format!("{} small, {} medium, {} large", boxes.small, boxes.medium, boxes.large));
    if let Some(side) = &boxes.side {
        print_row("side", &spread(side));
    }
    print_row(
        "width/height",
        &format!("<⅓ {thin}, to ½ {slim}, to 1 {tall}, to 2 {wide}, to 3 {flat}, above {flattest}"),
    );
    if let Some(per_image) = &boxes.per_image {
        let without = boxes.images_without_boxes;
        print_row("per image", &format!("{}; {without} images without boxes", spread(per_image)));
    }
}

fn print_classes(classes: &[ClassCount], boxes: bool) {
    let mut ranked: Vec<&ClassCount> = classes.iter().collect();
    ranked.sort_by_key(|class| std::cmp::Reverse(class.objects));
    let text = |class: &&ClassCount| match boxes {
        true => format!("{} {} in {}", class.name, class.objects, class.images),
        false => format!("{} {}", class.name, class.images),
    };
    let mut texts: Vec<String> = ranked.iter().take(CLASSES).map(text).collect();
    if classes.len() > CLASSES {
        texts.push(format!("… {} more", classes.len() - CLASSES));
    }
    if !texts.is_empty() {
        print_row(&format!("{} classes", classes.len()), &texts.join(", "));
    }
}

fn print_row(name: &str, value: &str) {
    println!("  {name:<14} {value}");
}

fn spread(spread: &Spread) -> String {
    let number = |value: f64| if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") };
    format!("{} to {}, median {}", number(spread.min), number(spread.max), number(spread.median))
}

fn print_findings(title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    println!("  {title}: {}", lines.len());
    lines.iter().take(SHOWN).for_each(|line| println!("    {line}"));
    if lines.len() > SHOWN {
        println!("    … {} more", lines.len() - SHOWN);
    }
}
