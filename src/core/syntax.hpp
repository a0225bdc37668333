// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace penstock::syntax {

/// URI-reference of RFC 3986; letters beyond ASCII may stand as they are, as in an IRI.
[[nodiscard]] bool is_uri_reference(std::string_view text) noexcept;
/// The same with a scheme.
[[nodiscard]] bool is_absolute_uri(std::string_view text) noexcept;
/// `type/subtype` with parameters, RFC 2046.
[[nodiscard]] bool is_media_type(std::string_view text) noexcept;
/// A media type whose subtype is `json` or ends in `+json`.
[[nodiscard]] bool is_json(std::string_view media_type) noexcept;
/// A media type whose content is text: `text/…`, or a subtype that is or ends in XML.
[[nodiscard]] bool is_text(std::string_view media_type) noexcept;
/// `application/cloudevents…`: the mark of structured (and batch) mode.
[[nodiscard]] bool is_cloudevents(std::string_view media_type) noexcept;
/// RFC 3339 date-time, of any year.
[[nodiscard]] bool is_time(std::string_view text) noexcept;
/// Letters and digits only, at least one, and not `data`; in any case.
[[nodiscard]] bool is_attribute_name(std::string_view text) noexcept;

}  // namespace penstock::syntax
