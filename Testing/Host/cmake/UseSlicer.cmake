# The macros that the extension calls: Slicer's own where ANYMC3D_SLICER_SOURCE names its sources, else small ones.
include(CTest)

# In both cases: a file is copied below DESTINATION_DIR by the name it was given, and that folder is installed. A name
# that leads out of the folder is therefore lost, as with CTK's macro.
function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR" "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    configure_file(${CMAKE_CURRENT_SOURCE_DIR}/${file} ${MY_DESTINATION_DIR}/${file} COPYONLY)
  endforeach()
  set(folder ${MY_DESTINATION_DIR})
  if(MY_NO_INSTALL_SUBDIR)
    set(folder ${folder}/)
  endif()
  install(DIRECTORY ${folder} DESTINATION ${MY_INSTALL_DIR} COMPONENT RuntimeLibraries)
endfunction()

function(ExternalData_add_test target)
  add_test(${ARGN})
endfunction()

set(source $ENV{ANYMC3D_SLICER_SOURCE})
if(source)
  message(STATUS "Slicer's own macros from ${source}")
  file(WRITE ${CMAKE_BINARY_DIR}/templates/qSlicerModuleGenericTest.py.in "# @MODULENAME@\n")
  set(Slicer_PYTHON_MODULE_TEST_TEMPLATES_DIR ${CMAKE_BINARY_DIR}/templates)
  include(${source}/CMake/SlicerMacroPythonTesting.cmake)
  include(${source}/CMake/SlicerMacroConfigureGenericPythonModuleTests.cmake)
  include(${source}/CMake/SlicerMacroBuildScriptedModule.cmake)
  return()
endif()

function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  get_filename_component(name ${MY_SCRIPT} NAME_WE)
  add_test(NAME py_${MY_TESTNAME_PREFIX}${name} COMMAND ${Slicer_LAUNCHER_EXECUTABLE} --testing ${name})
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME OR NOT MY_SCRIPTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule needs NAME and SCRIPTS, and knows no ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "There is no file ${file}")
    endif()
  endforeach()
  set(subdirectory "")
  set(option NO_INSTALL_SUBDIR)
  if(MY_WITH_SUBDIR)
    get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(subdirectory /${name})
    set(option "")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${MY_NAME}
    SCRIPTS ${MY_SCRIPTS}
    RESOURCES ${MY_RESOURCES}
    DESTINATION_DIR ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}${subdirectory}
    INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
    ${option}
    )
  if(BUILD_TESTING AND MY_WITH_GENERIC_TESTS)
    slicer_add_python_unittest(SCRIPT qSlicer${MY_NAME}ModuleGenericTest.py TESTNAME_PREFIX nomainwindow_)
  endif()
endfunction()
