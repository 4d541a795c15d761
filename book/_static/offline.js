// A page opened as a file may not fetch its neighbours: list what the search finds without excerpts of the pages.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
