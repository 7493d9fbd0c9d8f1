# Writes what the extension says of itself, for the tests.
file(WRITE ${CMAKE_BINARY_DIR}/extension.txt
  "name=${PROJECT_NAME}\ndepends=${EXTENSION_DEPENDS}\ncategory=${EXTENSION_CATEGORY}\n")
