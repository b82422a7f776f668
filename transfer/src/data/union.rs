//! Several data sets as one.

use std::collections::HashSet;
use std::path::Path;

use crate::data::{Category, DetectionDataset};
use scrl_core::data::error::DataError;

/// The images of all parts, in their order, as one data set.
///
/// Image ids are kept where no two parts share one, else images are numbered from 1 in their new order.
///
/// # Errors
/// When there is no part, or the classes of two parts are not the same in the same order.
pub fn join(parts: Vec<DetectionDataset>) -> Result<DetectionDataset, DataError> {
    let invalid = |reason: String| DataError::invalid(Path::new("union"), reason);
    let mut parts = parts.into_iter();
    let mut all = parts.next().ok_or_else(|| invalid("`parts` is empty; name one source at least".into()))?;
    for part in parts {
        if names(&part.categories) != names(&all.categories) {
            return Err(invalid(format!(
                "`{}` has the classes {}, and `{}` has {}; join sources of the same classes",
                all.name,
                names(&all.categories).join(", "),
                part.name,
                names(&part.categories).join(", ")
            )));
        }
        all.name = format!("{}+{}", all.name, part.name);
        all.images.extend(part.images);
        all.dropped += part.dropped;
    }
    let ids: HashSet<u64> = all.images.iter().map(|image| image.id).collect();
    if ids.len() < all.images.len() {
        all.images.iter_mut().zip(1..).for_each(|(image, id)| image.id = id);
    }
    Ok(all)
}

fn names(categories: &[Category]) -> Vec<&str> {
    categories.iter().map(|category| category.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::data::DetectionImage;

    use super::*;

    fn part(name: &str, classes: &[&str], ids: &[u64]) -> DetectionDataset {
        let image = |&id| DetectionImage {
            id,
            path: PathBuf::from(format!("{name}{id}")),
            file_name: String::new(),
            width: 1,
            height: 1,
            objects: Vec::new(),
            annotated: None,
        };
        let category = |(id, name): (usize, &&str)| Category { id: id as u64, name: name.to_string() };
        DetectionDataset {
            name: name.into(),
            images: ids.iter().map(image).collect(),
            categories: classes.iter().enumerate().map(category).collect(),
            dropped: ids.len(),
        }
    }

    fn ids(data: &DetectionDataset) -> Vec<u64> {
        data.images.iter().map(|image| image.id).collect()
    }

    #[test]
    fn images_of_all_parts_follow_each_other_and_have_ids_of_their_own() {
        let joined = join(vec![part("a", &["x"], &[1, 2]), part("b", &["x"], &[1])]).unwrap();
        assert_eq!((joined.name.as_str(), joined.dropped, ids(&joined)), ("a+b", 3, vec![1, 2, 3]));
        assert_eq!(joined.images[2].path, Path::new("b1"));
        let apart = join(vec![part("a", &["x"], &[7]), part("b", &["x"], &[4])]).unwrap();
        assert_eq!(ids(&apart), [7, 4], "ids that differ are kept");
    }

    #[test]
    fn parts_of_other_classes_and_an_empty_union_are_refused() {
        let error = join(vec![part("a", &["x"], &[1]), part("b", &["y"], &[2])]).unwrap_err().to_string();
        assert!(error.contains("`a` has the classes x, and `b` has y"), "{error}");
        assert!(join(Vec::new()).unwrap_err().to_string().contains("`parts` is empty"));
    }
}
